"""How long training will take and what routing is of it, from a few pieces of work of the kind that it consists of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_bench.model import MoE, VisionTransformer

SOON_S = 5.0  # after this no further piece begins
PIECES = 5


@dataclass(frozen=True)
class Rehearsal:
    """What was found on noise: without reading pictures and without the update."""

    image_s: float  # seconds of forward and backward for one image
    routing_share: float  # of these, what routing takes beside the experts' and all other layers' work
    pieces: int  # that were timed to find it


def rehearse(
    model: VisionTransformer, image_size: int, pieces: tuple[int, int], device: str, precision: str
) -> Rehearsal:
    """Train on a few batches of noise.

    ``pieces`` are two batch sizes. The small one warms up, for the first pass pays for more than its work; the one that
    will be trained with is timed unless that takes long. The fastest of up to ``PIECES`` counts, for other work on the
    machine only ever makes a piece slower. Leaves no gradient behind.
    """
    model.to(device)
    small, full = (torch.randn(images, 3, image_size, image_size, device=device) for images in pieces)
    first = _time(model, small, precision)
    if first > SOON_S:
        return _found(model, small, precision, [first])
    tried = _times(model, small, precision)
    if min(tried) * len(full) / len(small) > SOON_S:
        return _found(model, small, precision, tried)
    return _found(model, full, precision, _times(model, full, precision))


def _times(model: VisionTransformer, images: Tensor, precision: str) -> list[float]:
    times = [_time(model, images, precision)]
    while len(times) < PIECES and sum(times) < SOON_S:
        times.append(_time(model, images, precision))
    return times


def _found(model: VisionTransformer, images: Tensor, precision: str, times: list[float]) -> Rehearsal:
    routing = _routing_seconds(model, images, precision, rounds=len(times))
    return Rehearsal(min(times) / len(images), min(1.0, routing / min(times)), len(times))


def _time(model: VisionTransformer, images: Tensor, precision: str) -> float:
    def piece() -> None:
        with _autocast(images, precision):
            output = model(images, detail=True)
            loss = output.logits.float().logsumexp(-1).mean() + output.aux_loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    return _seconds(piece, images.device)


def _routing_seconds(model: VisionTransformer, images: Tensor, precision: str, rounds: int) -> float:
    """Of all MoE layers, forward and backward of ``images``: gate, affinity, choice, dispatch and combine."""
    layers = [layer for layer in model.modules() if isinstance(layer, MoE)]
    inputs: dict[MoE, tuple[Any, ...]] = {}
    hooks = [layer.router.register_forward_pre_hook(_keeping(inputs, layer)) for layer in layers]
    with torch.no_grad(), _autocast(images, precision):
        model(images)
    for hook in hooks:
        hook.remove()
    return sum(_layer_seconds(layer, *inputs[layer], precision=precision, rounds=rounds) for layer in layers)


def _keeping(inputs: dict[MoE, tuple[Any, ...]], layer: MoE) -> Callable[[Any, tuple[Any, ...]], None]:
    def hook(_router: Any, args: tuple[Any, ...]) -> None:
        inputs[layer] = args

    return hook


def _layer_seconds(layer: MoE, groups: Tensor, mask: Tensor | None, *, precision: str, rounds: int) -> float:
    """Of one layer on tokens ``groups`` (G, T, D), with outputs of its experts that are there already."""
    x = groups.detach().requires_grad_()
    with torch.no_grad(), _autocast(x, precision):
        slots = layer.router(x, mask).dispatch(x)
        done = layer.experts(slots)
    y, slope = done.detach().requires_grad_(), torch.ones_like(slots)

    def route() -> None:
        with _autocast(x, precision):
            routing = layer.router(x, mask)
            ends = [routing.dispatch(x), routing.combine(y)]
        if routing.aux_loss is not None:
            ends.append(routing.aux_loss.mean())
        torch.autograd.backward(ends, [slope, torch.ones_like(ends[1]), None][: len(ends)])
        layer.router.zero_grad(set_to_none=True)
        x.grad = y.grad = None

    return min(_seconds(route, x.device) for _ in range(1 + rounds))  # the first also pays for warming up


def _autocast(like: Tensor, precision: str) -> torch.autocast:
    return torch.autocast(like.device.type, torch.bfloat16, enabled=precision.startswith("bf16"))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
