from __future__ import annotations

import pytest
import torch

from moe_bench.config.schema import CapacityConfig, ModelConfig, SparseRouterConfig
from moe_bench.model import from_config
from moe_bench.training import rehearse
from moe_bench.training.module import LitViT, Optimization
from moe_bench.training.optim import Schedule


def small() -> LitViT:
    model = ModelConfig(image_size=16, patch=8, width=16, depth=2, heads=2, mlp=32, experts=2, moe_blocks=[1])
    vit = from_config(model, SparseRouterConfig(), CapacityConfig(group_images=2), 10)
    return LitViT(vit, Optimization(Schedule("constant", 1e-3, 10)), num_classes=10)


def test_a_rehearsal_leaves_weights_and_gradients_as_they_were() -> None:
    module = small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert rehearse.image_seconds(module, 16, (2, 8), "cpu", "32-true") > 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("seconds", "sizes"), [(0.001, [2, 2, 8, 8, 8, 8, 8]), (1.2, [2, 2, 8, 8, 8, 8, 8]), (2.0, [2, 2]), (9.0, [2])]
)
def test_the_full_batch_is_timed_only_where_that_is_soon_done(
    seconds: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def timed(module: LitViT, images: torch.Tensor, precision: str) -> float:
        seen.append(len(images))
        return seconds

    monkeypatch.setattr(rehearse, "_time", timed)
    rehearse.image_seconds(small(), 16, (2, 8), "cpu", "32-true")
    assert seen == sizes


def test_a_piece_that_other_work_slowed_down_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.1, 0.1, 3.0, 0.4, 0.9, 0.2, 0.3])
    monkeypatch.setattr(rehearse, "_time", lambda *_: next(times))
    assert rehearse.image_seconds(small(), 16, (2, 8), "cpu", "32-true") == 0.2 / 8
