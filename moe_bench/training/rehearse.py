"""How long training will take, from a few pieces of work of the kind that it consists of."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from moe_bench.training.module import LitViT

SOON_S = 5.0  # after this no further piece begins
PIECES = 5


def image_seconds(module: LitViT, image_size: int, pieces: tuple[int, int], device: str, precision: str) -> float:
    """Seconds of forward and backward for one image, on noise: without reading pictures and without the update.

    ``pieces`` are two batch sizes. The small one warms up, for the first pass pays for more than its work; the one that
    will be trained with is timed unless that takes long. The fastest of up to ``PIECES`` counts, for other work on the
    machine only ever makes a piece slower. Leaves no gradient behind.
    """
    module.to(device)
    small, full = (torch.randn(images, 3, image_size, image_size, device=device) for images in pieces)
    first = _time(module, small, precision)
    if first > SOON_S:
        return first / len(small)
    second = _time(module, small, precision)
    if second * len(full) / len(small) > SOON_S:
        return second / len(small)
    times = [_time(module, full, precision)]
    while len(times) < PIECES and sum(times) < SOON_S:
        times.append(_time(module, full, precision))
    return min(times) / len(full)


def _time(module: LitViT, images: Tensor, precision: str) -> float:
    started = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
        output = module.model(images, detail=True)
        loss = output.logits.float().logsumexp(-1).mean() + output.aux_loss
    loss.backward()
    module.zero_grad(set_to_none=True)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started
