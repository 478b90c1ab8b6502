"""Blocks sharded over two ranks with FSDP2 have the gradients of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from example_models import ROUTERS, TINY
from torch import Tensor, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from moe_bench.config.schema import CapacityConfig
from moe_bench.model import VisionTransformer, ViTOutput, from_config

RANKS = 2
SMALL = replace(TINY, image_size=16, width=32, depth=4, heads=2, mlp=64, experts=4, moe_blocks=[1, 3])


def gradients_agree(rank: int, rendezvous: str, name: str) -> None:
    """One rank: its half of the images through a sharded model, against all images through a whole one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    torch.manual_seed(0)
    whole, sharded = (
        from_config(SMALL, replace(ROUTERS[name], noise=0.0), CapacityConfig(group_images=2), 10)  # type: ignore[call-arg]
        for _ in range(2)
    )
    torch.nn.init.normal_(whole.head.weight)
    sharded.load_state_dict(whole.state_dict())
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)

    images = torch.randn(8, 3, 16, 16)
    learn(whole, images)
    learn(sharded, images.chunk(RANKS)[rank])
    for expected, parameter in zip(whole.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), expected.grad, atol=1e-5, rtol=1e-5)
    dist.barrier()  # gloo aborts where one rank leaves while the other still talks
    dist.destroy_process_group()


def learn(vit: VisionTransformer, images: Tensor) -> None:
    out = vit(images, detail=True)
    assert isinstance(out, ViTOutput)
    (out.logits.square().mean() + out.aux_loss).backward()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax_tc", "sinkhorn_ec"])
def test_gradients_of_two_ranks_are_those_of_one(name: str, tmp_path: Path) -> None:
    multiprocessing.spawn(gradients_agree, args=(str(tmp_path / "meet"), name), nprocs=RANKS)
