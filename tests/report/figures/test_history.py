from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moe_bench.report.collect import Run, collect
from moe_bench.report.figures.history import BINS, METRICS, PER_BIN, Curve, over_seeds, overtaking, read

from ..runs import add_metrics, add_run


def one_run(tmp_path: Path, rows: int = 120) -> Run:
    folder = add_run(tmp_path)
    add_metrics(folder, 0.6, rows=rows, load_cv=0.25)
    return collect(folder).runs[0]


def test_every_validation_is_kept_and_of_training_the_means_over_spans(tmp_path: Path) -> None:
    history = read(one_run(tmp_path, rows=600))
    np.testing.assert_allclose(list(history["val/prec1"].values()), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert list(history["val/prec1"])[-1] == 600 * 128
    assert len(history["train/loss"]) == BINS
    exact = [5.0 - 4.0 * (i + 0.5) / BINS for i in range(BINS)]
    np.testing.assert_allclose(list(history["train/loss"].values()), exact, atol=4.0 / BINS / 2)
    assert set(history["routing/load/cv"].values()) == {0.25}
    assert "lr" not in history


def test_long_runs_are_thinned_before_they_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = one_run(tmp_path, rows=6000)
    parsed = []
    monkeypatch.setattr(json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    read(run)
    assert len(parsed) <= BINS * PER_BIN + 6


def test_what_cannot_be_read_has_no_points(tmp_path: Path) -> None:
    run = one_run(tmp_path)
    path = run.path / METRICS
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 601, "samples_seen": 1e9, "val/prec1": 0.9')
    assert max(read(run)["val/prec1"]) == 600 * 128
    path.write_bytes(b'not json "val/prec1"\n[1]\n{"samples_seen": null, "val/prec1": 1}\n' + whole)
    assert len(read(run)["val/prec1"]) == 6
    path.write_bytes(b'{"samples_seen": 10, "val/prec1": null}\n{"samples_seen": 10, "train/loss": null}\n')
    assert not any(read(run).values())
    path.unlink()
    assert not any(read(run).values())


def test_seeds_are_averaged_point_by_point_with_the_interval_of_those_that_have_it() -> None:
    curve = over_seeds([{"a": {1.0: 1.0, 2.0: 1.0}}, {"a": {1.0: 3.0}}, {}], "a")
    np.testing.assert_allclose(curve.x, [1, 2])
    np.testing.assert_allclose(curve.mean, [2, 1])
    np.testing.assert_allclose(curve.half, [12.7062, np.nan], rtol=1e-5)  # t of one degree of freedom × 1


def line(*points: tuple[float, float]) -> Curve:
    x, y = np.array(points, float).T
    return Curve(x, y, np.full(len(x), np.nan))


def test_the_last_crossing_is_found_between_points() -> None:
    dense = line((0, 1), (4, 1), (8, 1))
    assert overtaking(line((0, 0), (2, 2), (6, 0), (10, 4)), dense) == pytest.approx((7, 1, True))
    assert overtaking(line((0, 2), (8, 3)), dense) is None
    assert overtaking(line((9, 0), (10, 2)), dense) is None  # they share no span


def test_curves_that_are_level_at_a_validation_still_cross_there() -> None:
    dense = line((0, 1), (2, 1), (4, 1), (6, 1))
    assert overtaking(line((0, 0), (2, 1), (4, 2), (6, 2)), dense) == (2, 1, True)
    assert overtaking(line((0, 2), (2, 1), (4, 1), (6, 0)), dense) == (4, 1, False)
    assert overtaking(line((0, 0), (2, 1), (4, 0), (6, 0)), dense) is None  # they only touch
    assert overtaking(line((0, 0), (2, 2), (4, 2), (6, 1)), dense) is None  # in the end neither is ahead
    assert overtaking(dense, dense) is None
