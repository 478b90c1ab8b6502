"""Balance without a loss (DeepSeek-V3): a bias on each expert's affinity, moved by what the expert was asked for.

After an optimiser step b[r] += rate · sign(mean load − load[r]), where the load counts the tokens that asked for expert
r in the whole step. No gradient comes from it, so none disturbs the learning of the gates.

E experts, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from moe_bench.routing.dispatch import Routing, SoftRouting
from moe_bench.routing.router import SparseRouter


def biased_routers(model: nn.Module) -> list[SparseRouter]:
    """The routers of ``model`` that have a bias, in the order of its layers."""
    return [part for part in model.modules() if isinstance(part, SparseRouter) and part.bias is not None]


def loads(routings: Iterable[Routing | SoftRouting]) -> Tensor:
    """(L, E) tokens that asked for each expert of each layer, over all groups of one forward pass."""
    return torch.stack([routing.demand.sum(0) for routing in routings if isinstance(routing, Routing)])


@torch.no_grad()
def rebalance(routers: list[SparseRouter], load: Tensor) -> None:
    """Move the bias of each of L ``routers`` by its ``load`` (L, E) of one step, summed over all ranks.

    In whole numbers, so that every rank and every resumed run comes to the same bias bit for bit.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(load)
    below_mean = (load.sum(-1, keepdim=True) - load * load.shape[-1]).sign()  # 1 for what is asked for too little
    for router, direction in zip(routers, below_mean, strict=True):
        assert router.bias is not None
        router.bias.add_(direction.to(router.bias.dtype), alpha=router.bias_rate)
