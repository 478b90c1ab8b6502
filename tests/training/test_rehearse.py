from __future__ import annotations

import pytest
import torch

from moe_bench.config.schema import (
    CapacityConfig,
    DenseRouterConfig,
    ModelConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
)
from moe_bench.model import VisionTransformer, from_config
from moe_bench.training import rehearse


def small(router: RouterConfig | None = None) -> VisionTransformer:
    model = ModelConfig(image_size=16, patch=8, width=16, depth=2, heads=2, mlp=32, experts=2, moe_blocks=[1])
    return from_config(model, router or SparseRouterConfig(), CapacityConfig(group_images=2), 10)


def test_a_rehearsal_leaves_weights_and_gradients_as_they_were() -> None:
    module = small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert rehearse.rehearse(module, 16, (2, 8), "cpu", "32-true").image_s > 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [(0.001, [2] * 6 + [8] * 5), (1.2, [2] * 6 + [8] * 5), (2.0, [2] * 4), (9.0, [2])],
)
def test_the_full_batch_is_timed_only_where_that_is_soon_done(
    seconds: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def timed(model: VisionTransformer, images: torch.Tensor, precision: str) -> float:
        seen.append(len(images))
        return seconds

    monkeypatch.setattr(rehearse, "_time", timed)
    rehearse.rehearse(small(), 16, (2, 8), "cpu", "32-true")
    assert seen == sizes


def test_a_piece_that_other_work_slowed_down_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.1, *(3.0, 0.1, 0.1, 0.1, 0.1), *(3.0, 0.4, 0.9, 0.2, 0.3)])
    monkeypatch.setattr(rehearse, "_time", lambda *_: next(times))
    assert rehearse.rehearse(small(), 16, (2, 8), "cpu", "32-true").image_s == 0.2 / 8


def test_a_dense_model_routes_nothing() -> None:
    assert rehearse.rehearse(small(DenseRouterConfig()), 16, (2, 8), "cpu", "32-true").routing_share == 0.0


@pytest.mark.parametrize(
    "router",
    [SoftRouterConfig(), SparseRouterConfig(affinity="sparse", solver="adam", noise=0.0), SparseRouterConfig()],
)
def test_routing_is_a_part_of_a_piece_and_is_timed_without_leaving_a_gradient(router: RouterConfig) -> None:
    module = small(router)
    assert 0.0 < rehearse.rehearse(module, 16, (2, 8), "cpu", "bf16-mixed").routing_share <= 1.0
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_solver_of_more_iterations_is_a_larger_share() -> None:
    few, many = (
        SparseRouterConfig(affinity="sparse", solver="adam", noise=0.0, iterations=count) for count in (1, 200)
    )
    shares = [rehearse.rehearse(small(r), 16, (2, 8), "cpu", "32-true").routing_share for r in (few, many)]
    assert shares[0] < shares[1]


def test_routing_is_what_takes_the_time_that_it_is_made_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second outside the one layer, which itself takes a quarter of that."""
    monkeypatch.setattr(rehearse, "_time", lambda *_: 1.0)
    monkeypatch.setattr(rehearse, "_layer_seconds", lambda *_, **__: 0.25)
    assert rehearse.rehearse(small(), 16, (2, 8), "cpu", "32-true").routing_share == 0.25
