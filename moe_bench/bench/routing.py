"""A router's bookkeeping alone, forward, without experts and without moving rows unless it says so.

    affinity   who likes whom, logits given (eq. 6, 8, 9)     choice    Algorithm 1 or 2, and its tables
    both       the two together                               router    from the tokens: gate and losses too
    dispatch   rows to slots                                  combine   rows back, weighted and added up

G groups, T tokens, E experts, C slots, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from moe_bench.bench.cases import Case
from moe_bench.bench.floor import dense_mlp
from moe_bench.bench.layers import variants
from moe_bench.bench.machine import clock, out_of_memory_told, precision
from moe_bench.bench.results import DENSE, RoutingTimes
from moe_bench.bench.timing import Call, timed_rounds
from moe_bench.routing import (
    Capacity,
    SparseRouter,
    expert_choice,
    make_router,
    sinkhorn,
    softmax,
    sparse,
    token_choice,
)

GATE = "gate (XW)"
LOGARITHMS = "sinkhorn on logarithms"
ITERATIONS = 20  # of Sinkhorn, as the routers' own


def measure(
    times: RoutingTimes,
    routers: Sequence[str],
    solvers: Sequence[str],
    rounds: int,
    device: torch.device,
    advance: Callable[[float], None],
) -> None:
    """Fills ``times``, round by round. ``advance`` is told of each call."""
    case = times.case
    with torch.no_grad(), out_of_memory_told(str(case)), precision(device, case.dtype):
        named: dict[str, Call] = {}
        for router, parts in _parts(case, routers, solvers, device):
            named |= {f"{router}/{part}": call for part, call in parts.items()}
        times.routers.extend(dict.fromkeys(name.split("/")[0] for name in named if not name.startswith(DENSE)))
        for each in timed_rounds(named, rounds, clock=clock(device), between=lambda name: advance(1)):
            times.rounds.append(each)


def calls(routers: Sequence[str], solvers: Sequence[str]) -> int:
    """How many calls a round has."""
    labels = list(variants(routers, solvers))
    sparse_routers = sum(router != "soft" for _, router, _ in labels)
    return 2 + 3 * len(labels) + 3 * sparse_routers + any(router.startswith("sinkhorn") for router in routers)


def sinkhorn_on_logarithms(logits: Tensor) -> Tensor:
    """Eq. 8 without a kernel: both normalisations by logsumexp each time. What ``sinkhorn`` is compared with."""
    share = torch.tensor(logits.shape[-2] / logits.shape[-1], device=logits.device).log()
    f = torch.zeros_like(logits[..., :1])
    for _ in range(ITERATIONS):
        g = share - (logits + f).logsumexp(-2, keepdim=True)
        f = -(logits + g).logsumexp(-1, keepdim=True)
    return (logits + f + g).exp()


def _parts(
    case: Case, routers: Sequence[str], solvers: Sequence[str], device: torch.device
) -> Iterator[tuple[str, dict[str, Call]]]:
    """The calls of every router by part, and those that they are compared with."""
    torch.manual_seed(0)
    tokens = torch.randn(case.images, case.tokens, case.width, device=device)
    groups = tokens.view(case.images // case.group_images, -1, case.width)  # (G, T, D)
    yield DENSE, {"forward": _call(dense_mlp(case.width, case.dense_hidden).to(device), tokens)}
    for label, name, settings in variants(routers, solvers):
        capacity = Capacity(case.capacity)
        router = make_router(name, case.width, case.experts, capacity=capacity, tokens=case.tokens, **settings)
        router = router.to(device).eval()
        x = groups if isinstance(router, SparseRouter) else tokens
        parts = _sparse_parts(router, x) if isinstance(router, SparseRouter) else {}
        yield label, parts | {"router": _call(router, x)} | _moves(router, x, case, device)
    gate = torch.nn.Linear(case.width, case.experts, bias=False).to(device)
    yield GATE, {"router": _call(gate, groups)}
    if any(name.startswith("sinkhorn") for name in routers):
        yield LOGARITHMS, {"affinity": _call(sinkhorn_on_logarithms, gate(groups).float())}


def _sparse_parts(router: SparseRouter, x: Tensor) -> dict[str, Call]:
    """Affinity and choice as ``SparseRouter`` calls them, with the logits of its own gate."""
    logits = torch.nn.functional.linear(x, router.gate.weight).float()  # (G, T, E)
    slots = router.capacity.slots(*logits.shape[1:])

    def affinity() -> Tensor:
        if router.affinity == "softmax":
            return softmax(logits)
        if router.affinity == "sinkhorn":
            return sinkhorn(logits, ITERATIONS)
        return sparse(softmax(logits), slots, router.solver)

    def choice(liked: Tensor) -> Any:
        if router.choice == "token":
            return token_choice(liked, liked, router.k, slots)
        return expert_choice(liked, liked, slots)

    ready = affinity()
    return {"affinity": affinity, "choice": lambda: choice(ready), "both": lambda: choice(affinity())}


def _moves(router: torch.nn.Module, x: Tensor, case: Case, device: torch.device) -> dict[str, Call]:
    """Rows to slots and back, with one routing."""
    routing = router(x)
    filled = routing.dispatch(x)
    return {"dispatch": _call(routing.dispatch, x), "combine": _call(routing.combine, torch.randn_like(filled))}


def _call(function: Callable[..., Any], *arguments: Any) -> Call:
    return lambda: function(*arguments)
