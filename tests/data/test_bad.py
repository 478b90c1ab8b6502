from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.data.bad import CAUSES, Account, Tolerance
from moe_bench.data.dataset import Pictures
from moe_bench.data.decode import Augmentation, evaluation_transform, training_transform
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.loader import eval_loader
from moe_bench.data.plan import Plan
from moe_bench.errors import DataError
from tests.data.shards import picture, write_damaged

SKIP = Tolerance(skip=True, limit=0.99)


def damaged(folder: Path, total: int, bad: dict[int, bytes]) -> ShardIndex:
    return open_split(write_damaged(folder, total, bad), progress=False)


@settings(max_examples=60)
@given(st.data())
def test_every_figure_is_what_counting_the_places_one_by_one_gives(data: Any) -> None:
    total = data.draw(st.integers(2, 30))
    plan = Plan(_parts(total), seed=data.draw(st.integers(0, 9)), window=data.draw(st.integers(1, 40)))
    bad = data.draw(st.sets(st.integers(0, total - 1), max_size=total - 1))
    substitutes = {one: next(n % total for n in range(one, one + total) if n % total not in bad) for one in bad}
    causes = {one: one % len(CAUSES) for one in bad}
    account = Account(SimpleNamespace(), plan)  # type: ignore[arg-type]
    account.add([[one, causes[one], substitutes[one]] for one in sorted(bad)])
    places = data.draw(st.integers(0, 3 * total))
    due = plan.pictures(np.arange(places)).tolist()
    shown = [substitutes.get(one, one) for one in due]
    skipped = [one for one in due if one in bad]
    expected = {
        "data/seen": places,
        "data/epochs": places / total,
        "data/distinct": len(set(shown)),
        "data/repeated": places - len(set(shown)),
        "data/skipped": len(skipped),
        "data/bad": len(set(skipped)),
    }
    for number, cause in enumerate(CAUSES):
        if count := sum(causes[one] == number for one in skipped):
            expected[f"data/skipped/{cause}"] = count
    assert account.figures(places) == expected
    assert account.news(0, places) == sorted(set(skipped))


def _parts(total: int) -> list[int]:
    return [total // 2, total - total // 2]


def test_a_bad_picture_is_news_once(tmp_path: Path) -> None:
    index = damaged(tmp_path, 10, {})
    account = Account(index, Plan(index.counts, 0, 100))
    account.add([[3, 1, 4], [7, 0, 8]])
    assert sorted(one for first in range(0, 40, 2) for one in account.news(first, first + 2)) == [3, 7]
    assert account.by_shard([3, 7]) == {"data/bad/train-000000.tar/damaged": 1, "data/bad/train-000001.tar/empty": 1}


def test_the_next_whole_picture_takes_the_place_and_nothing_else_moves(tmp_path: Path) -> None:
    bad = {2: b"", 3: b"junk", 9: picture(9, size=(80, 80))}
    whole, broken = damaged(tmp_path / "a", 10, {}), damaged(tmp_path / "b", 10, bad)
    requests = [(n, 100 + n) for n in (9, 1, 2, 3, 4)]
    transform = training_transform(8, Augmentation(crop_area=1, flip=False))
    limits: dict[str, Any] = {"seed": 0, "max_pixels": 1000}
    expected = Pictures(whole, transform, 8, **limits).batch([(n, p) for n, (_, p) in zip((0, 1, 4, 4, 4), requests)])
    batch = Pictures(broken, transform, 8, tolerance=SKIP, **limits).batch(requests)
    assert all(batch[key].equal(expected[key]) for key in ("image", "label", "valid", "index"))
    assert batch["bad"].tolist() == [[9, 2, 0], [2, 0, 4], [3, 1, 4]]


def test_augmentation_is_that_of_the_place(tmp_path: Path) -> None:
    transform = training_transform(8, Augmentation())
    whole, broken = damaged(tmp_path / "a", 4, {}), damaged(tmp_path / "b", 4, {1: b""})
    there = Pictures(whole, transform, 8, seed=0).batch([(2, 77)])["image"]
    assert Pictures(broken, transform, 8, seed=0, tolerance=SKIP).batch([(1, 77)])["image"].equal(there)


@pytest.mark.parametrize("workers", [0, 2])
def test_in_evaluation_the_place_of_a_bad_picture_stays_empty_and_is_told(tmp_path: Path, workers: int) -> None:
    index = damaged(tmp_path, 6, {1: b"", 4: b"junk"})
    batches = list(eval_loader(index, image_size=8, batch=4, workers=workers, tolerance=SKIP))
    assert [batch["index"].tolist() for batch in batches] == [[0, -1, 2, 3], [-1, 5, -1, -1]]
    assert [batch["valid"].tolist() for batch in batches] == [[True, False, True, True], [False, True, False, False]]
    assert [batch["bad"].tolist() for batch in batches] == [[[1, 0, -1]], [[4, 1, -1]]]


def test_without_tolerance_the_first_bad_picture_stops_and_the_message_says_how_to_go_on(tmp_path: Path) -> None:
    index = damaged(tmp_path, 4, {1: b""})
    with pytest.raises(DataError, match=r"000000\.tar:k1 is an empty file.*data\.on_error=skip"):
        Pictures(index, evaluation_transform(8), 8, tolerance=Tolerance()).batch([(1, 0)])
    with pytest.raises(DataError, match=r"remove or replace it$"):  # a verb that has no such setting
        Pictures(index, evaluation_transform(8), 8).batch([(1, 0)])


def test_beyond_the_limit_a_data_process_stops_with_the_shards_and_the_numbers(tmp_path: Path) -> None:
    index = damaged(tmp_path, 10, {1: b"", 2: b"", 5: b""})
    pictures = Pictures(index, evaluation_transform(8), 8, seed=0, tolerance=Tolerance(skip=True, limit=0.2))
    pictures.batch([(5, 0)])
    with pytest.raises(DataError) as caught:
        pictures.batch([(1, 0)])
    told = str(caught.value)
    assert "3 of 10 pictures cannot be decoded and data.skip_limit=0.2 allows 2" in told
    assert "train-000000.tar (2), train-000001.tar (1)" in told
    assert "000000.tar:k1. Replace" in told


def test_a_limit_counts_pictures_and_not_how_often_they_are_met(tmp_path: Path) -> None:
    index = damaged(tmp_path, 10, {1: b"", 5: b""})
    pictures = Pictures(index, evaluation_transform(8), 8, seed=0, tolerance=Tolerance(skip=True, limit=0.2))
    for _ in range(3):
        assert len(pictures.batch([(1, 0), (5, 0)])["bad"]) == 2
