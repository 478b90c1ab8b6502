"""What is random in a step, and where it comes from, so that no generator's state is ever saved or shared.

    routing noise       (seed, step, layer, group)      the same on any number of ranks, in pieces of any size;
                                                        so are the routes of router=random
    dropout, mixup      (seed, step, piece)             the same on any number of ranks that compute equal pieces
    order, augmentation (seed, position of a picture)   see data/plan.py and data/dataset.py

A piece is what a device computes at once, ``runtime.device_batch`` pictures; pieces are counted over all ranks in the
order of their pictures. A router of a user's own that calls torch's generator has the randomness of its piece.
"""

from __future__ import annotations

import hashlib
from typing import TypeGuard

import torch
from torch import nn

from moe_bench.model import MoE
from moe_bench.routing import ControlRouter, SoftRouter, SparseRouter
from moe_bench.routing.noise import GROUP_STRIDE


def stream(*key: int) -> int:
    """A seed in [0, 2⁶³) for what ``key`` names: unrelated for any two different keys."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def begin_piece(model: nn.Module, seed: int, step: int, piece: int, pictures: int) -> None:
    """Before the forward pass of piece number ``piece`` of a step, which has so many ``pictures``."""
    torch.manual_seed(stream(seed, step, piece))
    for number, layer in enumerate(part for part in model.modules() if isinstance(part, MoE)):
        router = layer.router
        if not _draws(router):
            continue
        first_group = piece * pictures // layer.group_images
        place = stream(seed, step, number) + first_group * GROUP_STRIDE
        _set_place(router, (place + 2**63) % 2**64 - 2**63)  # as int64 wraps


def _draws(router: nn.Module) -> TypeGuard[SparseRouter | SoftRouter | ControlRouter]:
    if isinstance(router, ControlRouter):
        return router.kind == "random"
    return isinstance(router, SparseRouter | SoftRouter) and router.noise > 0


def _set_place(router: SparseRouter | SoftRouter | ControlRouter, place: int) -> None:
    """In place after the first time, so that a compiled model meets the same tensor; without waiting for a device."""
    if router.noise_place is None:
        device = router.table.device if isinstance(router, ControlRouter) else next(router.parameters()).device
        router.noise_place = torch.zeros((), dtype=torch.int64, device=device)
    router.noise_place.fill_(place)
