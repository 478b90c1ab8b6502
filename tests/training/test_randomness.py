"""What is random in a step follows from its place, whoever computes it."""

from __future__ import annotations

import pytest
import torch

from moe_bench.config.schema import (
    CapacityConfig,
    ControlRouterConfig,
    ModelConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
)
from moe_bench.model import VisionTransformer, from_config
from moe_bench.training.randomness import begin_piece, stream

SIZES = ModelConfig(image_size=16, patch=8, width=16, depth=3, heads=2, mlp=32, experts=4, moe_blocks=[0, 2])
ROUTERS = [SparseRouterConfig(noise=4.0), SoftRouterConfig(noise=1.0), ControlRouterConfig("random")]


def model(router: RouterConfig) -> VisionTransformer:
    torch.manual_seed(0)
    made = from_config(SIZES, router, CapacityConfig(group_images=2), 5)
    torch.nn.init.normal_(made.head.weight)
    return made


def logits(vit: VisionTransformer, images: torch.Tensor, piece: int, step: int = 3, seed: int = 0) -> torch.Tensor:
    begin_piece(vit, seed, step, piece, len(images))
    out = vit(images)
    assert isinstance(out, torch.Tensor)
    return out


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.name)
@pytest.mark.parametrize("size", [2, 4])
def test_pieces_of_any_size_are_routed_as_the_whole_batch(router: RouterConfig, size: int) -> None:
    vit, images = model(router), torch.randn(8, 3, 16, 16)
    whole = logits(vit, images, 0)
    pieces = [logits(vit, part, number) for number, part in enumerate(images.split(size))]
    torch.testing.assert_close(torch.cat(pieces), whole)


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.name)
def test_another_step_seed_or_place_is_routed_by_other_noise(router: RouterConfig) -> None:
    vit, images = model(router), torch.randn(2, 3, 16, 16)
    same, again = logits(vit, images, 0), logits(vit, images, 0)
    assert torch.equal(same, again)
    for other in (logits(vit, images, 1), logits(vit, images, 0, step=4), logits(vit, images, 0, seed=1)):
        assert not torch.allclose(same, other)


def test_layers_have_noise_of_their_own() -> None:
    vit = model(ROUTERS[0])
    begin_piece(vit, 0, 0, 0, 2)
    first, second = (vit.blocks[number].mlp.router.noise_place for number in (0, 2))
    assert int(first) != int(second)


def test_the_place_of_noise_is_not_part_of_a_checkpoint() -> None:
    vit = model(ROUTERS[0])
    before = set(vit.state_dict())
    begin_piece(vit, 0, 0, 0, 2)
    assert set(vit.state_dict()) == before


def test_streams_of_different_places_are_unrelated() -> None:
    seeds = {stream(seed, step, piece) for seed in (0, 1) for step in range(9) for piece in range(4)}
    assert len(seeds) == 72
    assert all(0 <= seed < 2**63 for seed in seeds)
