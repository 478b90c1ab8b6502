"""How long training will take, from one piece of work of the kind that it consists of."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from moe_bench.training.module import LitViT

SOON_S = 1.0


def image_seconds(module: LitViT, image_size: int, pieces: tuple[int, int], device: str, precision: str) -> float:
    """Seconds of forward and backward for one image on noise, without reading pictures and without the update.

    ``pieces`` are two batch sizes: a small one, which also warms up, and the one that will be trained with, tried
    only where the small one says that it is done soon. Leaves no gradient behind.
    """
    module.to(device)
    small, full = pieces
    elapsed = _time(module, torch.randn(small, 3, image_size, image_size, device=device), precision)
    if full == small or elapsed * full / small > SOON_S * 10:
        return elapsed / small
    return _time(module, torch.randn(full, 3, image_size, image_size, device=device), precision) / full


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
