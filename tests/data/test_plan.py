from __future__ import annotations

import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.data.plan import Plan, Share, evaluation_share, permutation

counts_of_shards = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def sequence(plan: Plan, start: int, stop: int) -> list[int]:
    return plan.pictures(np.arange(start, stop)).tolist()


@given(counts_of_shards, st.integers(0, 99), st.integers(1, 100), st.integers(0, 3))
def test_every_epoch_uses_every_picture_exactly_once(counts: list[int], seed: int, window: int, epoch: int) -> None:
    total = sum(counts)
    assert sorted(sequence(Plan(counts, seed, window), epoch * total, (epoch + 1) * total)) == list(range(total))


@given(counts_of_shards, st.integers(0, 99), st.integers(1, 100), st.integers(0, 3))
def test_the_place_of_a_picture_in_an_epoch_is_found_backwards(
    counts: list[int], seed: int, window: int, epoch: int
) -> None:
    plan, total = Plan(counts, seed, window), sum(counts)
    offsets = plan.offsets(np.arange(total), epoch)
    assert plan.pictures(epoch * total + offsets).tolist() == list(range(total))


@settings(max_examples=50)
@given(
    counts_of_shards,
    st.integers(1, 30),
    st.integers(0, 9),
    st.sampled_from([(1, 12), (1, 4), (2, 6), (2, 3), (3, 2), (4, 1)]),
)
def test_the_global_order_is_the_same_on_any_number_of_ranks_and_micro_batches(
    counts: list[int], window: int, step: int, layout: tuple[int, int]
) -> None:
    world, device_batch = layout
    plan = Plan(counts, seed=3, window=window)
    parts = [
        plan.pictures(positions).tolist()
        for rank in range(world)
        for positions in Share(12, device_batch, rank, world).steps(step, step + 1)
    ]
    assert list(chain.from_iterable(parts)) == sequence(plan, step * 12, (step + 1) * 12)


@given(counts_of_shards, st.integers(0, 20))
def test_a_run_resumed_at_any_step_goes_on_as_the_unbroken_one(counts: list[int], step: int) -> None:
    share = Share(batch=6, device_batch=3, rank=1, world=2)
    unbroken = [Plan(counts, 0, 8).pictures(p).tolist() for p in share.steps(0, 24)]
    resumed = [Plan(counts, 0, 8).pictures(p).tolist() for p in share.steps(step, 24)]
    assert resumed == unbroken[step:]


def test_a_batch_at_the_end_of_an_epoch_is_filled_from_the_next() -> None:
    plan = Plan([3, 4], seed=0, window=100)
    epochs = sequence(plan, 0, 7), sequence(plan, 7, 14)
    assert sequence(plan, 5, 10) == epochs[0][5:] + epochs[1][:3]
    assert epochs[0] != epochs[1]


def test_a_window_holds_pictures_of_as_few_shards_as_it_can() -> None:
    plan = Plan([10] * 8, seed=1, window=20)
    for start in range(0, 80, 20):
        assert len({picture // 10 for picture in sequence(plan, start, start + 20)}) == 2


def test_seeds_give_different_orders_and_the_same_seed_the_same() -> None:
    first, again, other = (sequence(Plan([50], seed, 50), 0, 50) for seed in (0, 0, 1))
    assert first == again != other


def test_the_permutation_is_frozen_for_all_time() -> None:
    assert permutation(8, 1, 2).tolist() == FROZEN


FROZEN = [7, 1, 3, 0, 4, 2, 6, 5]


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="batch of 10 does not divide among 2 devices in pieces of 4"):
        Share(batch=10, device_batch=4, rank=0, world=2)


@given(st.integers(0, 60), st.integers(1, 7), st.sampled_from([1, 2, 3, 5]))
def test_evaluation_counts_every_picture_once_and_ranks_have_equal_parts(total: int, batch: int, world: int) -> None:
    parts = [evaluation_share(np.arange(total), batch, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) % batch == 0
    pictures = np.concatenate(parts)
    assert sorted(pictures[pictures >= 0].tolist()) == list(range(total))


def test_evaluation_batches_hold_the_same_pictures_on_any_number_of_ranks() -> None:
    alone = evaluation_share(np.arange(22), 4).reshape(-1, 4).tolist()
    shared = [
        batch for rank in range(2) for batch in evaluation_share(np.arange(22), 4, rank, 2).reshape(-1, 4).tolist()
    ]
    assert sorted(alone) == sorted(shared)


def test_the_plan_needs_no_torch() -> None:
    code = "import sys, moe_bench.data.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
