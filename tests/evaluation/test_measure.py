"""Answers picture by picture, against models built for the setting and against what was counted by hand."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moe_bench.config.schema import CapacityConfig, ModelConfig, SoftRouterConfig, SparseRouterConfig
from moe_bench.data.bad import Tolerance
from moe_bench.data.index import open_split
from moe_bench.data.loader import eval_loader
from moe_bench.data.sources import split_of
from moe_bench.evaluation.measure import Answers, Change, Judge, has_fixed_slots
from moe_bench.evaluation.settings import Setting
from moe_bench.model import VisionTransformer, from_config
from tests.data.shards import write_damaged, write_shards

MODEL = ModelConfig(image_size=32, patch=8, width=16, depth=2, heads=2, mlp=16, experts=4, moe_blocks=[0, 1])
CLASSES, GROUP = 5, 4
TOKEN = SparseRouterConfig(name="softmax_tc", choice="token", k=1)


def model(router: SparseRouterConfig, capacity: CapacityConfig) -> VisionTransformer:
    torch.manual_seed(0)
    made = from_config(MODEL, router, capacity, CLASSES)
    with torch.no_grad():
        made.head.weight.normal_()
    return made.eval()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    folder = tmp_path_factory.mktemp("set")
    write_shards(folder, [9, 9], split="val")
    index = open_split(split_of(folder, "val"), cache_dir=folder / "cache", progress=False)
    cpu = torch.device("cpu")
    return Judge(index, 32, CLASSES, "softmax", "short_side", 1.0, 8, 100, 10**6, Tolerance(), 0, cpu, nullcontext)


def alone(judge: Judge, made: VisionTransformer) -> torch.Tensor:
    """Predictions (N,) of one forward pass of everything."""
    (batch,) = eval_loader(judge.index, image_size=32, batch=len(judge.index), workers=0)
    with torch.no_grad():
        return made(batch["image"]).argmax(1)


@pytest.mark.parametrize("router", [SparseRouterConfig(), TOKEN])
@pytest.mark.parametrize(("capacity", "group"), [(0.5, GROUP), (2.0, GROUP), (1.0, 1), (4.0, 1)])
def test_a_setting_is_the_model_built_with_that_capacity_and_those_groups(
    judge: Judge, router: SparseRouterConfig, capacity: float, group: int
) -> None:
    built = model(router, CapacityConfig(factor=capacity, group_images=group))
    varied = model(router, CapacityConfig(factor=1.0, group_images=GROUP))
    setting = Setting(capacity, group, router.k)
    found = judge.answers(varied, [Setting(1.0, GROUP, router.k), setting])[setting]
    assert found.predicted.tolist() == alone(judge, built).tolist()
    labels = torch.from_numpy(judge.index.labels[:, 0].astype("int64"))
    assert found.right.tolist() == (found.predicted == labels).tolist()
    assert found.prec1 == pytest.approx(float((found.predicted == labels).double().mean()))


def test_an_image_alone_is_answered_alike_in_every_order_and_in_a_group_is_not(judge: Judge) -> None:
    made = model(SparseRouterConfig(), CapacityConfig(group_images=GROUP))
    ones = [Setting(1.0, 1, None, order) for order in (0, 1, 2)]
    eight = [Setting(0.5, GROUP, None, order) for order in (0, 1, 2)]
    found = judge.answers(made, ones + eight)
    assert Change.between(found[ones[1]], found[ones[0]]).changed == 0
    assert Change.between(found[ones[2]], found[ones[0]]).changed == 0
    assert any(Change.between(found[one], found[eight[0]]).changed > 0 for one in eight[1:])


def test_soft_moe_answers_alike_among_any_neighbours(judge: Judge) -> None:
    torch.manual_seed(0)
    made = from_config(MODEL, SoftRouterConfig(), CapacityConfig(group_images=GROUP), CLASSES).eval()
    made.head.weight.data.normal_()
    first, other = Setting(1.0, 1, None), Setting(1.0, 1, None, order=1)
    found = judge.answers(made, [first, other])
    assert Change.between(found[other], found[first]).changed == 0


def test_choices_of_a_token_are_set_and_come_back(judge: Judge) -> None:
    made = model(TOKEN, CapacityConfig(group_images=GROUP))
    one, two = Setting(2.0, GROUP, 1), Setting(2.0, GROUP, 2)
    found = judge.answers(made, [one, two])
    assert found[two].predicted.tolist() == alone(judge, model(replace(TOKEN, k=2), CapacityConfig(2.0))).tolist()
    assert judge.answers(made, [one])[one].predicted.tolist() == found[one].predicted.tolist()


def test_a_bad_picture_is_a_wrong_answer(judge: Judge, tmp_path: Path) -> None:
    write_damaged(tmp_path, 6, {2: b"no picture"}, split="val")
    index = open_split(split_of(tmp_path, "val"), cache_dir=tmp_path / "cache", progress=False)
    tolerant = replace(judge, index=index, tolerance=Tolerance(skip=True, limit=0.5))
    setting = Setting(1.0, GROUP, None)
    found = tolerant.answers(model(SparseRouterConfig(), CapacityConfig()), [setting])[setting]
    assert [n for n, answer in enumerate(found.predicted.tolist()) if answer < 0] == [2]
    assert not found.right[2]


def test_changes_are_counted_in_pairs() -> None:
    before = Answers(torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, False]), 1.0)
    now = Answers(torch.tensor([0, 0, 2, 1]), torch.tensor([True, False, False, True]), 1.0)
    change = Change.between(now, before)
    assert (change.prec1, change.changed, change.became_right, change.became_wrong) == (0.0, 0.5, 1, 1)
    differences = torch.tensor([0.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    assert change.ci95 == pytest.approx(1.96 * float(differences.std(correction=0)) / 2)


def test_a_router_of_ones_own_has_fixed_slots_unless_it_keeps_a_capacity() -> None:
    made = model(SparseRouterConfig(), CapacityConfig())
    assert not has_fixed_slots(made)
    del made.blocks[0].mlp.router.capacity
    assert has_fixed_slots(made)
