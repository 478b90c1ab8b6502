"""The whole protocol on real shards, against the same thing written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import pytest
import torch

from moe_bench.data.bad import Tolerance
from moe_bench.data.index import open_split
from moe_bench.data.loader import eval_loader
from moe_bench.errors import ConfigError, DataError
from moe_bench.probe.callback import figures, floor
from moe_bench.probe.features import extract, pixels
from moe_bench.probe.ridge import L2_GRID, draw, few_shot
from moe_bench.probe.score import ProbeSet, Protocol, Reader, batches, open_sets, score

READER = Reader(image_size=8, batch=16, workers=0)


def everything(index: Any) -> tuple[torch.Tensor, torch.Tensor]:
    _, x, y = extract(pixels, eval_loader(index, image_size=8, resize="square", batch=7, workers=0))
    return x, y


def test_features_are_in_the_order_of_the_pictures_whatever_the_batches(sets: list[ProbeSet]) -> None:
    index = sets[0].train
    x, y = everything(index)
    assert x.shape == (60, 3 * 8 * 8)
    assert y.tolist() == index.labels[:, 0].tolist()
    backwards = eval_loader(index, np.arange(60)[::-1], image_size=8, resize="square", batch=32, workers=0)
    numbers, again, labels = extract(pixels, backwards)
    assert numbers.tolist() == list(range(60))
    assert torch.equal(again, x)
    assert torch.equal(labels, y)


def test_a_score_is_the_mean_over_draws_of_regressions_on_the_drawn_pictures(sets: list[ProbeSet]) -> None:
    (told, _) = score(sets, Protocol(shots=(5,), draws=3, l2=8.0), pixels, READER)
    (x, y), (test_x, test_y) = everything(sets[0].train), everything(sets[0].test)
    each = []
    for seed in range(3):
        rows = torch.from_numpy(draw(sets[0].train.labels[:, 0], 5, seed))
        each.append(few_shot(x[rows], y[rows], test_x, test_y, [8.0]).item())
    assert (told.dataset, told.shots, told.l2) == ("easy", 5, 8.0)
    assert told.accuracy == pytest.approx(mean(each))
    assert told.std == pytest.approx(pstdev(each))


def test_only_drawn_pictures_are_encoded(sets: list[ProbeSet]) -> None:
    seen = 0

    def count(images: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += int(valid.sum())
        return pixels(images, valid)

    calls = []
    protocol = Protocol(shots=(1, 2), draws=2)
    score(sets[:1], protocol, count, READER, lambda: calls.append(1))
    drawn = {int(n) for seed in range(2) for n in draw(sets[0].train.labels[:, 0], 2, seed)}
    assert seen == len(drawn) + len(sets[0].test) < 2 * 3 * 2 + len(sets[0].test)
    assert len(calls) == batches(sets[:1], protocol, READER.batch)


def test_best_is_one_penalty_for_all_sets_and_draws_of_a_number_of_shots(sets: list[ProbeSet]) -> None:
    protocol = Protocol(shots=(2, 5), draws=2, policy="best")
    told = {(one.dataset, one.shots): one for one in score(sets, protocol, pixels, READER)}
    assert told["easy", 2].l2 == told["hard", 2].l2
    assert told["easy", 5].l2 == told["hard", 5].l2
    for shots in (2, 5):  # no λ of the grid has a better mean rank
        tables = []
        for data in sets:
            (x, y), (test_x, test_y) = everything(data.train), everything(data.test)
            for seed in range(2):
                rows = torch.from_numpy(draw(data.train.labels[:, 0], shots, seed))
                tables.append(few_shot(x[rows], y[rows], test_x, test_y).numpy())
        ranks = np.mean([np.argsort(np.argsort(row, kind="stable"), kind="stable") for row in tables], axis=0)
        assert ranks[L2_GRID.index(told["easy", shots].l2)] == ranks.max()


def test_heldout_scores_lie_between_chance_and_the_best_on_the_test(sets: list[ProbeSet]) -> None:
    best = score(sets[:1], Protocol(shots=(5,), policy="best"), pixels, READER)[0]
    held = score(sets[:1], Protocol(shots=(5,), policy="heldout"), pixels, READER)[0]
    assert 1 / 3 < held.accuracy <= best.accuracy + 0.05
    assert held.l2 > 0


def test_more_signal_and_more_shots_score_higher(sets: list[ProbeSet]) -> None:
    told = {(one.dataset, one.shots): one.accuracy for one in score(sets, Protocol(shots=(1, 10)), pixels, READER)}
    assert told["easy", 10] > told["hard", 10]
    assert told["easy", 10] > told["easy", 1]


def test_figures_have_the_names_of_the_summary(sets: list[ProbeSet]) -> None:
    protocol = Protocol(shots=(1, 5))
    told = figures(score(sets, protocol, pixels, READER), floor(sets, protocol, READER))
    names = {
        f"probe/{s}/{n}shot{end}" for s in ("easy", "hard") for n in (1, 5) for end in ("", "/std", "/floor", "/l2")
    }
    assert set(told) == names | {"probe/l2"}
    assert told["probe/l2"] == 1024.0
    assert told["probe/easy/5shot"] == told["probe/easy/5shot/floor"]  # pixels against pixels


def test_the_floor_sees_at_most_32_pixels_a_side(sets: list[ProbeSet], monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    real = pixels

    def spy(images: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        widths.append(images.shape[-1])
        return real(images, valid)

    monkeypatch.setattr("moe_bench.probe.callback.pixels", spy)
    floor(sets[:1], Protocol(shots=(1,), draws=1), Reader(224, 16, 0))
    floor(sets[:1], Protocol(shots=(1,), draws=1), Reader(8, 16, 0))
    assert set(widths) == {32, 8}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"policy": "rank"}, "fixed, best, heldout"),
        ({"shots": ()}, "at least 1"),
        ({"draws": 0}, "at least 1"),
        ({"policy": "heldout", "shots": (1, 5)}, "at least 2"),
    ],
)
def test_impossible_protocols_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Protocol(**settings)


def test_two_sets_of_one_name_are_refused(easy: Path, tmp_path: Path) -> None:
    other = tmp_path / "easy"
    other.symlink_to(easy)
    with pytest.raises(ConfigError, match="same name"):
        open_sets([str(easy), str(easy)], tmp_path / "cache", progress=False)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_sets([str(tmp_path / "nowhere")], tmp_path / "cache", progress=False)


def broken(source: ProbeSet, folder: Path, train: set[int], test: set[int]) -> ProbeSet:
    """A copy of a set in which pictures have another first byte."""
    indexes = []
    for index, bad in ((source.train, train), (source.test, test)):
        for place, path in enumerate(index.paths):
            data, first = bytearray(Path(path).read_bytes()), int(index.counts[:place].sum())
            for number in range(first, first + int(index.counts[place])):
                if number in bad:
                    data[int(index.offsets[number])] ^= 1
            (folder / Path(path).name).write_bytes(data)
        names = [str(folder / Path(path).name) for path in index.paths]
        indexes.append(open_split(names, cache_dir=folder / "cache", progress=False))
    return ProbeSet(source.name, indexes[0], indexes[1])


def test_a_bad_picture_of_the_test_split_is_a_wrong_answer_and_a_draw_goes_without_its_own(
    sets: list[ProbeSet], tmp_path: Path
) -> None:
    drawn, lost = draw(sets[0].train.labels[:, 0], 5, 0), {3, 17}
    damaged = broken(sets[0], tmp_path, {int(drawn[0])}, lost)
    tolerant = replace(READER, tolerance=Tolerance(skip=True, limit=0.1))
    (told,) = score([damaged], Protocol(shots=(5,), draws=1, l2=8.0), pixels, tolerant)
    (x, y), (test_x, test_y) = everything(sets[0].train), everything(sets[0].test)
    rows, kept = torch.from_numpy(drawn[1:]), [n for n in range(50) if n not in lost]
    right = few_shot(x[rows], y[rows], test_x[kept], test_y[kept], [8.0]).item() * 48
    assert told.accuracy == pytest.approx(right / 50)
    assert told.bad == 3
    assert figures([told], [told])["probe/easy/bad"] == 3
    with pytest.raises(DataError, match=r"2 of 50 pictures cannot be decoded and data\.skip_limit=0\.03 allows 1"):
        score(
            [damaged],
            Protocol(shots=(5,), draws=1),
            pixels,
            replace(READER, tolerance=Tolerance(skip=True, limit=0.03)),
        )
    with pytest.raises(DataError, match="is not a whole JPEG"):
        score([damaged], Protocol(shots=(5,), draws=1), pixels, READER)
