from __future__ import annotations

import subprocess
import sys

import pytest

from moe_bench.routing.capacity import Capacity, slots_per_expert


@pytest.mark.parametrize(
    ("tokens", "factor", "slots"),
    [(400, 1, 12), (400, 2, 25), (1576, 1, 49), (1576, 2, 98), (49, 1, 2), (49, 2, 3), (197, 1, 6), (197, 2, 12)],
)
def test_the_papers_models_have_these_slots_for_32_experts(tokens: int, factor: float, slots: int) -> None:
    assert slots_per_expert(tokens, 32, factor) == slots


def test_halves_go_to_the_even_number() -> None:
    assert slots_per_expert(400, 32, 1.0) == 12  # 12.5
    assert slots_per_expert(432, 32, 1.0) == 14  # 13.5


def test_rounding_up_to_a_multiple_is_an_option() -> None:
    assert slots_per_expert(400, 32, 1.0, "up") == 13
    assert slots_per_expert(400, 32, 1.0, "up", multiple_of=4) == 16
    assert Capacity(2.0, "up", 4).slots(400, 32) == 28


def test_less_than_one_slot_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"capacity 1 × 8 tokens / 32 experts = 0.25 rounds to 0 .* 4 or more"):
        slots_per_expert(8, 32, 1.0, multiple_of=4)


def test_evaluation_may_have_another_factor() -> None:
    capacity = Capacity(1.0, "up", 4, eval_factor=4.0)
    assert (capacity.slots(400, 32), capacity.slots(400, 32, training=False)) == (16, 52)
    assert Capacity(2.0).slots(400, 32, training=False) == 25
    with pytest.raises(ValueError, match="capacity factor must be a positive number, not -1"):
        Capacity(eval_factor=-1.0)


@pytest.mark.parametrize("wrong", [{"factor": 0.0}, {"factor": float("nan")}, {"rounding": "down"}, {"multiple_of": 0}])
def test_a_capacity_that_makes_no_sense_is_refused(wrong: dict[str, float | str | int]) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Capacity(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="capacity"):
        slots_per_expert(400, 32, **{"factor": 1.0} | wrong)  # type: ignore[arg-type]


def test_it_can_be_had_without_torch() -> None:
    code = "import sys, moe_bench.routing.capacity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
