"""Forgetting activations and computing them again in the backward pass changes no gradient and no statistic."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moe_bench.model import MoE
from moe_bench.model.vit import Block
from moe_bench.monitor.telemetry import RoutingTelemetry

TOKENS, DIM = 12, 16


def trained(router_name: str, recompute: bool, folder: Path) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Gradients of one block, of its input first, and what telemetry took down."""
    torch.manual_seed(0)
    moe = MoE(DIM, 32, router_name, 4, capacity=2.0, group_images=2, tokens=TOKENS, identical_experts=False)
    block = Block(DIM, 2, moe).train()
    x = torch.randn(4, TOKENS, DIM).requires_grad_()
    telemetry = RoutingTelemetry(folder, 1, 4)
    moe.router.register_forward_hook(telemetry._keep("block"))
    torch.manual_seed(1)  # of the routers' noise
    y, routing = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    loss = y.square().sum() if routing.aux_loss is None else y.square().sum() + routing.aux_loss.sum()
    gradients = torch.autograd.grad(loss, [x, *block.parameters()])
    return list(gradients), telemetry._pending["block"]


def test_gradients_and_telemetry_are_the_same(router_name: str, tmp_path: Path) -> None:
    kept, recomputed = (trained(router_name, recompute, tmp_path) for recompute in (False, True))
    for ours, theirs in zip(recomputed[0], kept[0], strict=True):
        assert torch.equal(ours, theirs)
    assert recomputed[1].keys() == kept[1].keys()
    for name, value in kept[1].items():
        assert torch.equal(recomputed[1][name], value), name
