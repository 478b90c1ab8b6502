"""Whole layers against the floor: forward (evaluation, no graph) and forward with backward (a step of training).

Every layer of a case works on the same random tokens, ours on the same expert parameters. Gradients of parameters and
input are dropped after every call, outside its time, as ``zero_grad(set_to_none=True)`` does in a training loop.

B images, N tokens of an image, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_bench import __version__
from moe_bench.bench.cases import Case
from moe_bench.bench.floor import Floor, dense_mlp
from moe_bench.bench.machine import clock, out_of_memory_told, peak_bytes, precision
from moe_bench.bench.peers import Peer
from moe_bench.bench.results import DENSE, Entry, LayerTimes, LeftOut, floor_name
from moe_bench.bench.timing import WARMUP, timed_rounds
from moe_bench.model import Experts, MoE
from moe_bench.routing import Capacity, make_router
from moe_bench.training.randomness import begin_piece

PASSES = {"forward": 1, "train": 3}
"""What is timed, and its FLOPs over those of a forward pass."""


class Subject:
    """A layer ready to be called: with its input, a fixed gradient of its output, and its precision.

    ``outputs`` makes of what the layer returns a tuple of its output and its loss, if it has one, which then is part
    of the backward pass.
    """

    def __init__(
        self,
        layer: nn.Module,
        x: Tensor,
        dtype: str,
        outputs: Callable[[Any], tuple[Tensor, ...]] = lambda output: (output,),
        call: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.layer, self.x, self.dtype, self.outputs = layer, x, dtype, outputs
        self.call = layer if call is None else call
        self.cotangent = torch.randn_like(self.forward())

    def forward(self) -> Tensor:
        """In evaluation, without a graph."""
        with torch.no_grad(), precision(self.x.device, self.dtype):
            return self.outputs(self.call(self.x))[0]

    def train(self) -> None:
        """Forward and backward."""
        with precision(self.x.device, self.dtype):
            outputs = self.outputs(self.call(self.x))
        torch.autograd.backward(outputs, [self.cotangent, *[None] * (len(outputs) - 1)])

    def clear(self) -> None:
        """Drop all gradients."""
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None


@dataclass(frozen=True)
class Options:
    """What to measure in every case."""

    routers: Sequence[str]
    solvers: Sequence[str]
    peers: Sequence[Peer]
    rounds: int
    device: torch.device


def measure(times: LayerTimes, options: Options, advance: Callable[[float], None]) -> None:
    """Fills ``times``, round by round. ``advance`` is told of FLOPs that were worked off."""
    with out_of_memory_told(str(times.case)):
        ready = dict(subjects(times, options))
        for kind in PASSES:
            _time(kind, ready, times, options, advance)
        for name, subject in ready.items():
            times.peak_bytes[name] = peak_bytes(subject.train, options.device)
            subject.clear()


def _time(
    kind: str, ready: dict[str, Subject], times: LayerTimes, options: Options, advance: Callable[[float], None]
) -> None:
    """All rounds of one of the ``PASSES``."""

    def between(name: str) -> None:
        ready[name].clear()
        advance(PASSES[kind] * times.case.flops(times.entries[name].rows))

    for subject in ready.values():
        subject.layer.train(kind == "train")
    calls = {name: getattr(subject, kind) for name, subject in ready.items()}
    for each in timed_rounds(calls, options.rounds, clock=clock(options.device), between=between):
        times.rounds[kind].append(each)


def work(case: Case, options: Options) -> int:
    """FLOPs of measuring a case: what progress is counted in."""
    rows = [case.rows(router) for _, router, _ in variants(options.routers, options.solvers)]
    rows += [peer.rows(case) for peer in options.peers]
    rows += [*set(rows), case.dense_rows]
    return sum(map(case.flops, rows)) * (options.rounds + WARMUP) * sum(PASSES.values())


def variants(routers: Sequence[str], solvers: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Label, name and options of each router; the sparse one once a solver."""
    for router in routers:
        if router == "sparse_ec":
            yield from ((f"{router} {solver}", router, {"solver": solver}) for solver in solvers)
        else:
            yield router, router, {}


def subjects(times: LayerTimes, options: Options) -> Iterator[tuple[str, Subject]]:
    """Every layer of a case by its name, with an entry in ``times``: ours, other packages', the floors, the MLP."""
    case, device = times.case, options.device
    torch.manual_seed(0)
    tokens = torch.randn(case.images, case.tokens, case.width, device=device)
    experts = Experts(case.experts, case.width, case.hidden).to(device)

    def entry(name: str, package: str, rows: int, layer: nn.Module, x: Tensor, **how: Any) -> tuple[str, Subject]:
        subject = Subject(layer.to(device), x.clone().requires_grad_(), case.dtype, **how)
        times.entries[name] = Entry(name, package, rows)
        return name, subject

    for label, router, settings in variants(options.routers, options.solvers):
        layer = _moe(case, router, settings, experts)
        how = {"call": layer.forward_with_routing, "outputs": _output_and_loss}
        yield entry(label, f"moe-bench {__version__}", case.rows(router), layer, tokens, **how)
    for peer in options.peers:
        try:
            made = peer.make(case)
            package = f"{peer.package} {peer.version}"
            name, subject = entry(peer.package, package, peer.rows(case), made, tokens, outputs=peer.outputs)
            subject.train()
        except Exception as error:  # whatever it is, ours go on without it
            times.entries.pop(peer.package, None)
            times.left_out.append(LeftOut(peer.package, f"{type(error).__name__}: {error}"))
        else:
            yield name, subject
    for rows in sorted({one.rows for one in times.entries.values()}):
        ready = torch.randn(case.experts, rows, case.width, device=device)
        yield entry(floor_name(rows), "torch", rows, Floor(experts), ready)
    yield entry(DENSE, "torch", case.dense_rows, dense_mlp(case.width, case.dense_hidden), tokens)


def _moe(case: Case, router: str, settings: dict[str, Any], experts: Experts) -> MoE:
    """A layer of ours around experts that it shares with others."""
    capacity = Capacity(case.capacity)
    made = make_router(router, case.width, case.experts, capacity=capacity, tokens=case.tokens, **settings)
    layer = MoE(case.width, 1, made, case.experts, group_images=case.group_images)
    layer.experts = experts
    begin_piece(layer, seed=0, step=0, piece=0, pictures=case.images)  # noise as in training
    return layer


def _output_and_loss(returned: Any) -> tuple[Tensor, ...]:
    y, routing = returned
    return (y,) if routing.aux_loss is None else (y, routing.aux_loss.mean())
