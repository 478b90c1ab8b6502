"""What ``moe-bench evaluate`` left beside a run stands in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_bench.report.collect import collect
from moe_bench.report.evaluations import EVALUATION, evaluated, evaluation_table
from moe_bench.report.figures.over_settings import draw_evaluated, draw_shots, shots_of
from moe_bench.report.figures.style import looks
from moe_bench.report.groups import Section, sections

from .runs import add_run


def setting(prec1: float, capacity: float = 1.0, group_images: int = 8, order: int = 0, **more: Any) -> dict[str, Any]:
    return {"capacity": capacity, "group_images": group_images, "k": None, "order": order, "prec1": prec1, **more}


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """Two evaluated seeds of softmax_ec, one of soft, which has its slots; dense was not evaluated."""
    for seed in range(2):
        folder = add_run(tmp_path, "softmax_ec", seed=seed, prec1=0.5)
        settings = [setting(0.50 + seed / 100), setting(0.40 + seed / 100, 0.5), setting(0.56 + seed / 100, 2.0)]
        settings += [setting(0.45, group_images=1), setting(0.30, 0.5, group_images=1)]
        settings += [setting(0.49, order=1, change={"changed": 0.08}), setting(0.49, order=2, change={"changed": 0.12})]
        (folder / EVALUATION).write_text(json.dumps({"settings": settings}))
    (add_run(tmp_path, "soft") / EVALUATION).write_text(json.dumps({"settings": [setting(0.6, group_images=1)]}))
    (add_run(tmp_path, "sparse_ec") / EVALUATION).write_text('{"settings": [{"prec1": "none"}, 3]')
    add_run(tmp_path, "dense")
    (found,) = sections(collect(tmp_path).runs)
    return found


def test_accuracy_by_capacity_of_evaluation_alone_and_among_other_neighbours(section: Section) -> None:
    (table,) = evaluation_table(section)
    names = [heading.partition(" ± ")[0] for heading in table.headings]
    by_router = {row[2]: dict(zip(names, row)) for row in table.texts}
    assert set(by_router) == {"softmax_ec", "soft"}
    ours = by_router["softmax_ec"]
    assert (ours["seeds"], ours["as trained"], ours["at 0.5"]) == ("2", "50.5 ± 6.4", "40.5 ± 6.4")
    assert (ours["one image a group"], ours["changed by order"]) == ("45.0 ± 0.0", "10.0 ± 0.0")
    soft = by_router["soft"]
    assert [soft[name] for name in ("as trained", "at 1", "at 0.5", "one image a group")] == ["60.0", "60.0", "–", "–"]


def test_nothing_evaluated_is_nothing_said(tmp_path: Path) -> None:
    add_run(tmp_path)
    (section,) = sections(collect(tmp_path).runs)
    assert evaluation_table(section) == []
    assert draw_evaluated(evaluated(section), looks(section.rows)) is None


def test_a_curve_goes_over_the_capacities_of_evaluation(section: Section) -> None:
    figure = draw_evaluated(evaluated(section), looks(section.rows))
    assert figure is not None
    (axes,) = figure.axes
    longest = max((line.get_xydata() for line in axes.lines), key=len)
    np.testing.assert_allclose(longest, [[0.5, 40.5], [1, 50.5], [2, 56.5]])


def test_few_shot_curves_need_several_shots(tmp_path: Path) -> None:
    for seed in range(2):
        shots = {"probe/digits/1shot": 0.2 + seed / 10, "probe/digits/25shot": 0.8}
        add_run(tmp_path, "soft", seed=seed, prec1=0.4, **shots)
    (section,) = sections(collect(tmp_path).runs)
    assert shots_of(section.rows) == {"digits": [1, 10, 25]}
    figure = draw_shots(section.rows, looks(section.rows))
    assert figure is not None
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[1, 25], [10, 50], [25, 80]])
    assert draw_shots([row for row in section.rows if row.router == "dense"], looks(section.rows)) is None
