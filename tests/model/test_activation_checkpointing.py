"""Forgetting activations and computing them again in the backward pass changes no gradient and no statistic."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from example_models import ROUTERS, TINY
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moe_bench.config.schema import CapacityConfig
from moe_bench.model import from_config
from moe_bench.monitor.telemetry import RoutingTelemetry, to_numbers

SMALL = replace(TINY, image_size=16, patch=4, width=32, depth=2, heads=2, mlp=64, experts=4, moe_blocks=[0, 1])


def trained(router: str, recompute: bool, folder: Path) -> tuple[list[Tensor], dict[str, dict[str, object]]]:
    """Gradients of a model in training, and what telemetry took down of each layer."""
    torch.manual_seed(0)
    vit = from_config(SMALL, ROUTERS[router], CapacityConfig(group_images=2), 10).train()
    torch.nn.init.normal_(vit.head.weight)
    if recompute:
        for block in vit.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    telemetry = RoutingTelemetry(folder, log_every=1, batch=4)
    telemetry._counting = True  # as on a logging step
    vit.register_forward_hook(telemetry._count)
    torch.manual_seed(1)  # of the images and the routers' noise
    out = vit(torch.randn(4, 3, 16, 16), detail=True)
    gradients = torch.autograd.grad(out.logits.square().mean() + out.aux_loss, list(vit.parameters()))
    return list(gradients), {name: to_numbers(tally) for name, tally in telemetry._tallies.items()}


def test_gradients_and_telemetry_are_the_same(router_name: str, tmp_path: Path) -> None:
    kept, recomputed = (trained(router_name, recompute, tmp_path) for recompute in (False, True))
    for ours, theirs in zip(recomputed[0], kept[0], strict=True):
        assert torch.equal(ours, theirs)
    assert recomputed[1] == kept[1]
    assert set(kept[1]) == {"blocks.0", "blocks.1"}
