"""Expert parallelism: a layer's experts are dealt out to the ranks of a row, and the slots travel to them.

Every rank routes its own images. What it would send to E experts at home (E, N, D) goes by one exchange to the ranks
that have them, and comes back by a second one; both are differentiable, and static in shape, because every expert has a
slot count of its own whatever the tokens. The ranks form a mesh (replica, expert): those of a row share one set of
experts, those of a column have the same slice of it. The model's code knows nothing of it.

E experts, W ranks of a row, N rows an expert gets from one rank (groups × slots), D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh

from moe_bench.model.experts import Experts
from moe_bench.training.layout import EXPERT_MESH, expert_mesh


def deal_experts(model: nn.Module, mesh: DeviceMesh) -> None:
    """Keep this rank's slice of every layer's experts, and exchange slots around it. In place.

    ``mesh`` has the dimensions "replica" and "expert". E must be a multiple of the latter.
    """
    row = mesh["expert"]
    for experts in (part for part in model.modules() if isinstance(part, Experts)):
        for name, parameter in list(experts.named_parameters(recurse=False)):
            mine = nn.Parameter(parameter.detach().chunk(row.size())[row.get_local_rank()].clone())
            setattr(mine, EXPERT_MESH, mesh)
            setattr(experts, name, mine)
        exchange = Exchange(row)
        experts.register_forward_pre_hook(exchange.out)
        experts.register_forward_hook(exchange.home)


class Exchange:
    """Around the experts of one layer."""

    def __init__(self, row: DeviceMesh) -> None:
        self.ranks, self.group = row.size(), row.get_group()

    def out(self, experts: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """(E, N, D), from this rank for all experts → (E/W, W·N, D), from all ranks for this rank's experts."""
        (slots,) = args
        by_rank = self._swap(slots).view(self.ranks, -1, *slots.shape[1:])
        return (by_rank.transpose(0, 1).reshape(-1, self.ranks * slots.shape[1], slots.shape[2]),)

    def home(self, experts: nn.Module, args: Any, rows: Tensor) -> Tensor:
        """(E/W, W·N, D) → (E, N, D)."""
        mine, width = rows.shape[0], rows.shape[2]
        by_rank = rows.view(mine, self.ranks, -1, width).transpose(0, 1)
        return self._swap(by_rank.reshape(mine * self.ranks, -1, width))

    def _swap(self, parts: Tensor) -> Tensor:
        """Part r of the first axis goes to rank r; what comes is in the order of ranks."""
        swapped: Tensor = all_to_all_single_autograd(parts.contiguous(), None, None, self.group)
        return swapped


@torch.no_grad()
def average_expert_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Once a step, after the backward pass: the gradients of experts as the mean over all ranks, as of the rest.

    An expert's gradient is by then the sum over its row, for the rows of slots from all its ranks went through it.
    """
    for parameter in parameters:
        if (mesh := expert_mesh(parameter)) is not None and parameter.grad is not None:
            if mesh["replica"].size() > 1:
                dist.all_reduce(parameter.grad, group=mesh["replica"].get_group())
            parameter.grad.div_(mesh.size())
