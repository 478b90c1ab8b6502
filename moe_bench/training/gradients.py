"""The gradient of the whole model, of which a rank may hold a part only: its norm, and clipping by it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moe_bench.training.layout import layout, local


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients: a scalar on the device, the same on every rank, which all must ask for.

    What every rank has counts once; what is in parts is added up over the ranks that share it.
    """
    parts: dict[DeviceMesh | None, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            where = layout(parameter)
            parts.setdefault(where[0] if where else None, []).append(local(parameter.grad))
    squares = []
    for mesh, gradients in parts.items():
        square = torch.nn.utils.get_total_norm(gradients).square()
        if mesh is not None:
            dist.all_reduce(square, group=mesh.get_group())
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most: float, norm: Tensor) -> None:
    """Scale the gradients, whose norm is ``norm``, to a norm of at most ``most``."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
