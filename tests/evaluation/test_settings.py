"""Which settings there are, and in whose words one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_bench.config import Config, load
from moe_bench.errors import ConfigError
from moe_bench.evaluation.settings import Setting, as_trained, compared_with, settings, words


def run(*overrides: str) -> Config:
    """16 tokens an image, 8 experts, groups of 8 images."""
    return load(["router=softmax_ec", *overrides])


def test_the_runs_own_setting_comes_first_and_once() -> None:
    found, refused = settings(run(), [2.0, 1.0, 0.5])
    assert found == [Setting(c, 8, None) for c in (1.0, 0.5, 2.0)]
    assert refused == []


def test_the_runs_own_capacity_is_that_of_its_validation() -> None:
    config = run("capacity.eval_factor=3")
    assert as_trained(config) == Setting(3.0, 8, None)
    assert as_trained(config).slots(config) == 48


def test_one_image_and_other_orders_come_at_each_capacity_and_are_held_against_it() -> None:
    config = run()
    found, _ = settings(config, [1.0, 2.0], one_image=True, orders=2)
    own = as_trained(config)
    told = {words(s, own): (s.slots(config), compared_with(s, own)) for s in found}
    double = Setting(2.0, 8, None)
    assert told == {
        "as trained": (16, None),
        "capacity 2": (32, own),
        "capacity 1, one image a group": (2, own),
        "capacity 2, one image a group": (4, double),
        "capacity 1, other order 1": (16, own),
        "capacity 1, other order 2": (16, own),
        "capacity 2, other order 1": (32, double),
        "capacity 2, other order 2": (32, double),
    }


def test_an_expert_without_a_slot_is_refused_with_the_numbers_and_the_rest_is_measured() -> None:
    found, refused = settings(run("model.experts=32"), [1.0, 4.0], one_image=True)
    assert [s for s in found if s.group_images == 1] == [Setting(4.0, 1, None)]
    (one,) = refused
    assert one.setting == "capacity 1, one image a group"
    assert "capacity 1 × 16 tokens / 32 experts = 0.5 rounds to 0 slots" in one.why
    assert "use a capacity of 2 or more" in one.why


def test_k_stays_that_of_training_whatever_the_capacity_unless_asked_for() -> None:
    config = run("router=softmax_tc", "capacity=2")
    assert {s.k for s in settings(config, [0.5, 4.0])[0]} == {2}
    found, _ = settings(config, [2.0], [1, 2])
    assert found == [Setting(2.0, 8, 2), Setting(2.0, 8, 1)]
    assert words(found[1], found[0]) == "capacity 2, k = 1"
    with pytest.raises(ConfigError, match="among 8 experts"):
        settings(config, [1.0], [9])
    with pytest.raises(ConfigError, match="softmax_ec no token chooses"):
        settings(run(), [1.0], [1])


def test_soft_moe_keeps_its_slots_and_its_groups() -> None:
    config = run("router=soft")
    found, refused = settings(config, [0.5, 1.0], one_image=True, orders=1)
    assert found == [Setting(1.0, 1, None), Setting(1.0, 1, None, order=1)]
    assert [setting.slots(config) for setting in found] == [2, 2]  # of each expert, for the 16 tokens of an image
    assert [one.setting for one in refused] == ["capacity 0.5", "one image a group"]
    assert "learned parameters for every slot" in refused[0].why


def test_a_dense_model_has_nothing_to_vary() -> None:
    config = run("router=dense")
    found, refused = settings(config, [0.5, 2.0], one_image=True, orders=1)
    assert len(found) == 1
    assert found[0].slots(config) is None
    assert "nothing to vary" in refused[0].why


def test_a_router_without_a_capacity_keeps_its_slots_and_is_still_regrouped() -> None:
    config = replace(run(), router=replace(run().router, impl="mine:Router"))
    found, refused = settings(config, [2.0], one_image=True, fixed_slots=True)
    assert [s.capacity for s in found] == [1.0, 1.0]
    assert "mine:Router keeps no .capacity" in refused[0].why
