"""What is drawn is what the runs say: points, intervals, the front, crossings, gaps."""

from __future__ import annotations

import json
import math
import shutil
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from moe_bench.report.collect import collect
from moe_bench.report.figures import begin
from moe_bench.report.figures.combine import draw_combine, pairs
from moe_bench.report.figures.cost import Point, cost_axis, draw_cost, front, points, published_points
from moe_bench.report.figures.curves import draw_curves
from moe_bench.report.figures.gain import draw_gains, gain
from moe_bench.report.figures.health import draw_health
from moe_bench.report.figures.lines import Histories
from moe_bench.report.figures.style import looks, style
from moe_bench.report.groups import Section, sections
from moe_bench.report.page import Figure, Heading, Text
from moe_bench.report.paper import PREC1, published
from moe_bench.report.tables import UPSTREAM

from ..runs import add_metrics, add_run

PREC = {"dense": 0.30, "softmax_tc": 0.32, "softmax_ec": 0.35, "soft": 0.36}


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    """Three seeds of dense, softmax_tc and softmax_ec; soft diverged; capacity 2 of softmax_ec alone."""
    root = tmp_path_factory.mktemp("runs")
    for router in ("dense", "softmax_tc", "softmax_ec"):
        for seed in range(3):
            folder = add_run(root, router, seed=seed, prec1=PREC[router] + seed / 100, **{"flops/image": 1e9})
            routing = {} if router == "dense" else {"load_cv": 0.2, "uncovered": 0.1, "load_max": 1.5}
            add_metrics(folder, PREC[router], **routing)
    add_metrics(add_run(root, "softmax_ec", capacity=2.0, prec1=0.4, **{"flops/image": 2e9}), 0.4, load_cv=0.2)
    add_metrics(add_run(root, "soft", state="diverged"), 0.2)
    (section,) = sections(collect(root).runs)
    return section


def drawn_in(axes: Axes) -> dict[str, np.ndarray]:
    """(x, y) of what has a marker, by colour."""
    return {
        line.get_markeredgecolor(): line.get_xydata() for line in axes.lines if line.get_marker() not in ("None", "")
    }


def test_a_point_is_a_mean_over_seeds_with_its_interval(section: Section) -> None:
    look = looks(section.rows)
    found = {(p.look.label, p.capacity): p for p in points(section.rows, "val/prec1", section.price, look)}
    assert set(found) == {("dense", 1), ("softmax_tc", 1), ("softmax_ec", 1), ("softmax_ec", 2)}  # soft is a gap
    assert found["softmax_ec", 1].score == pytest.approx(36)
    assert found["softmax_ec", 1].score_half == pytest.approx(4.302653 / math.sqrt(3))
    assert found["softmax_ec", 2].score_half is None
    assert found["dense", 1].cost == pytest.approx(182.4 / 86400)


def test_cost_is_in_flops_where_runs_were_timed_on_different_devices(tmp_path: Path) -> None:
    for seed, device in enumerate(("NVIDIA A100", "NVIDIA H100")):
        add_run(tmp_path, seed=seed, device=device, **{"flops/image": 2e9, "samples_seen": 1000})
    (row,) = sections(collect(tmp_path).runs)[0].rows
    price, label = cost_axis([row])
    assert "TFLOP" in label
    assert "different devices" in label
    assert row.cost(price).mean == pytest.approx(6.0)  # 3 × 2e9 × 1000, in T
    (tmp_path / row.runs[1].name / "summary.json").unlink()
    (alone,) = [row for row in sections(collect(tmp_path).runs)[0].rows if row.runs]
    assert "device-days" in cost_axis([alone])[1]


def test_the_front_is_what_nothing_cheaper_beats() -> None:
    look = looks([])
    places = [(1, 5), (2, 4), (2, 6), (3, 6), (4, 9)]
    found = front([Point(look, 1.0, False, cost, score) for cost, score in places])  # type: ignore[arg-type]
    assert [(p.cost, p.score) for p in found] == [(1, 5), (2, 6), (4, 9)]


def test_figure_1_has_a_panel_a_model_and_one_for_each_of_the_paper(section: Section) -> None:
    figure = draw_cost(section.rows, "val/prec1", "prec@1 (%)", published_points(published(), PREC1), "JFT")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["tiny", "b32, as published", "b16, as published", "l16, as published"]
    paper = published_points(published(), PREC1)
    assert {model: len(found) for model, found in paper.items()} == {"b32": 12, "b16": 12, "l16": 10}


def test_a_single_model_fills_the_row_above_the_published_panels(section: Section) -> None:
    figure = draw_cost(section.rows, "val/prec1", "prec@1 (%)", published_points(published(), PREC1), "JFT")
    figure.canvas.draw()
    assert len(figure.axes) == 4
    ours, *paper = (axes.get_position().width for axes in figure.axes)
    assert ours > 2.9 * max(paper)


def test_no_cost_is_below_nought_however_far_two_seeds_are_apart(tmp_path: Path) -> None:
    for seed, days in enumerate((0.001, 0.009)):
        add_run(tmp_path, seed=seed, **{"cost/device_days": days})
    (section,) = sections(collect(tmp_path).runs)
    figure = draw_cost(section.rows, "val/prec1", "prec@1 (%)")
    assert figure.axes[0].get_xlim()[0] >= 0


def test_a_gain_is_paired_by_seed(section: Section) -> None:
    by_name = {(row.router, row.capacity): row for row in section.rows}
    dense = by_name["dense", 1.0]
    mean = gain(by_name["softmax_ec", 1.0], dense, "val/prec1")
    assert mean is not None
    assert mean.mean == pytest.approx(5)
    assert mean.half == pytest.approx(0, abs=1e-9)  # each seed is as much better; unpaired it would be 2.5
    assert gain(by_name["softmax_ec", 2.0], dense, "val/prec1").half is None
    assert gain(by_name["soft", 1.0], dense, "val/prec1") is None


def test_gains_need_a_dense_run(section: Section) -> None:
    moe = [row for row in section.rows if row.router != "dense"]
    assert draw_gains(moe, [UPSTREAM], looks(moe)) is None
    figure = draw_gains(section.rows, [UPSTREAM], looks(section.rows))
    widths = sorted(bar.get_width() for bar in figure.axes[0].patches)
    np.testing.assert_allclose(widths, [2, 5, 10])


def test_a_gain_is_never_over_a_dense_model_of_other_settings(tmp_path: Path) -> None:
    for width, prec1 in ((128, 0.3), (256, 0.5)):
        science = {"model.width": width}
        for router, more in (("dense", 0.0), ("soft", width / 1000)):
            add_metrics(add_run(tmp_path, router, prec1=prec1 + more, science=science), prec1 + more)
    rows = sections(collect(tmp_path).runs)[0].rows
    figure = draw_gains(rows, [UPSTREAM], looks(rows))
    np.testing.assert_allclose(sorted(bar.get_width() for bar in figure.axes[0].patches), [12.8, 25.6])


def test_curves_cross_dense_where_they_do_and_ended_runs_end(tmp_path: Path) -> None:
    for router, end in (("dense", 0.30), ("softmax_ec", 0.30)):
        add_metrics(add_run(tmp_path, router, prec1=end, **{"flops/image": 1e9}), end)
    late = [
        (128 * step, 0.0005 * step - 0.05) for step in (100, 300, 600)
    ]  # dense is 0.0005 × step … minus a late start
    path = next(tmp_path.glob("softmax_ec*")) / "metrics.jsonl"
    late[-1] = (128 * 600, 0.35)
    path.write_text("".join(f'{{"samples_seen": {x}, "val/prec1": {y}}}\n' for x, y in late))
    add_metrics(add_run(tmp_path, "soft", state="diverged"), 0.2)
    (section,) = sections(collect(tmp_path).runs)
    rows = [row for row in section.rows if row.runs]
    histories = Histories(section)
    figure, words = draw_curves(rows, histories.ended, histories, looks(section.rows))
    at = 300 + 300 * 0.05 / (0.05 + 0.05)  # from 0.05 behind to 0.05 ahead
    assert words == [f"softmax_ec at capacity 1 is ahead of dense from {at * 128:,.0f} pictures on"]
    assert len(figure.axes) == 2  # of equal price: no panel against FLOPs
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [tuple(line.get_xydata()[0]) for line in crosses] == [(600 * 128, pytest.approx(20))]


def test_a_copied_run_is_no_seed_of_its_own_in_a_curve_either(tmp_path: Path) -> None:
    for seed, prec1 in enumerate((0.3, 0.4)):
        add_metrics(add_run(tmp_path, seed=seed, prec1=prec1), prec1)
    shutil.copytree(next(tmp_path.glob("*-s1-*")), tmp_path / "copy")
    (section,) = sections(collect(tmp_path).runs)
    (row,) = section.rows
    curve, mean = Histories(section).curve(row, "val/prec1"), row.mean("val/prec1")
    assert mean is not None
    assert (curve.mean[-1], curve.half[-1]) == pytest.approx((mean.mean, mean.half))


def legend(figure: Any) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def curves_of(root: Path) -> Any:
    (section,) = sections(collect(root).runs)
    histories = Histories(section)
    rows = [row for row in section.rows if row.runs]
    return draw_curves(rows, histories.ended, histories, looks(section.rows))[0]


def test_a_run_of_a_step_has_a_point_and_no_line_to_its_name_within_the_panel(tmp_path: Path) -> None:
    rows = [{"samples_seen": 128, "train/loss": 4.6}, {"samples_seen": 128, "val/prec1": 0.1}]
    (add_run(tmp_path) / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for axes in curves_of(tmp_path).axes:
        (point,) = [line for line in axes.lines if line.get_transform() != axes.transAxes]
        (leader,) = [line for line in axes.lines if line.get_transform() == axes.transAxes]
        assert point.get_marker() not in ("None", "")
        assert min(leader.get_xdata()) >= 1


def test_a_panel_without_values_has_no_ticks_and_says_so(tmp_path: Path) -> None:
    (add_run(tmp_path) / "metrics.jsonl").write_text('{"samples_seen": 128, "val/prec1": 0.1}\n')
    with_values, without = curves_of(tmp_path).axes
    assert [text.get_text() for text in without.texts] == ["nothing was logged"]
    assert [len(without.get_xticks()), len(without.get_yticks())] == [0, 0]
    assert len(with_values.get_yticks())


def test_the_legend_of_curves_has_only_marks_that_are_drawn(tmp_path: Path) -> None:
    for router in ("dense", "softmax_ec"):
        add_metrics(add_run(tmp_path, router), 0.3)
    ended = add_run(tmp_path, "soft", state="failed")
    assert legend(curves_of(tmp_path)) == []
    add_metrics(ended, 0.2)
    assert legend(curves_of(tmp_path)) == ["a run that failed or diverged ends"]


def test_long_names_stand_in_the_legend_and_not_beside_the_panels(tmp_path: Path) -> None:
    add_metrics(add_run(tmp_path, config={"router": {"combine": "plan"}}), 0.3)
    figure = curves_of(tmp_path)
    assert legend(figure) == ["softmax_ec (router.combine=plan)"]
    assert not any(axes.texts for axes in figure.axes)


def test_a_front_of_one_point_is_not_in_the_legend(tmp_path: Path) -> None:
    for router, prec1, days in (("soft", 0.5, 2.0), ("softmax_ec", 0.6, 1.0), ("softmax_tc", 0.7, 3.0)):
        add_run(tmp_path, router, prec1=prec1, **{"cost/device_days": days})
    rows = sections(collect(tmp_path).runs)[0].rows
    assert "Pareto front" in legend(draw_cost(rows, "val/prec1", "prec@1 (%)"))
    one = [row for row in rows if row.router != "softmax_tc"]
    assert "Pareto front" not in legend(draw_cost(one, "val/prec1", "prec@1 (%)"))


def test_prices_that_differ_add_a_row_against_flops(section: Section) -> None:
    histories = Histories(section)
    rows = [row for row in section.rows if row.runs]
    figure, words = draw_curves(rows, [], histories, looks(section.rows))
    assert words == []  # all lines through nought
    assert len(figure.axes) == 3 * 2
    flops = [axes for axes in figure.axes if "FLOP" in axes.get_xlabel()]
    assert len(flops) == 2
    ends = {float(x[-1, 0]) for x in drawn_in(flops[1]).values()}
    assert ends == {3 * 1e9 * 600 * 128, 3 * 2e9 * 600 * 128}


def test_routing_has_a_panel_for_what_there_is_and_says_where_there_is_nothing(section: Section) -> None:
    figure = draw_health(section.rows, Histories(section), looks(section.rows))
    assert figure is not None
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["busiest expert\n(1 is fair)", "load CV", "tokens\nuncovered (%)"]
    uncovered = figure.axes[-2]
    assert {tuple(xy[:, 1].round(6)) for xy in drawn_in(uncovered).values()} == {(10.0,) * 60}
    assert [text.get_text() for text in figure.axes[-1].texts] == ["no such run has finished"]


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Labels of axes that stand on each other, or partly off the sheet."""
    with style():
        FigureCanvasAgg(figure).draw()
    labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label) if label.get_text()]
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
    off = [(name, "the edge") for name, box in boxes if not _inside(figure, box)]
    return off + [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


def _inside(figure: Any, box: Any) -> bool:
    return bool(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1)


def test_labels_of_neighbours_never_stand_on_each_other(tmp_path: Path) -> None:
    for capacity in (1.0, 1.5, 2.0):
        folder = add_run(tmp_path, "softmax_tc", capacity=capacity, **{"flops/image": 1e9 * capacity})
        add_metrics(folder, 0.4, uncovered=0.2, load_max=1.5)
    (section,) = sections(collect(tmp_path).runs)
    with style():
        curves, _ = draw_curves(section.rows, [], Histories(section), looks(section.rows))
        routing = draw_health(section.rows, Histories(section), looks(section.rows))
    assert overlapping(curves) == []
    assert overlapping(routing) == []


def test_figure_3_pairs_runs_that_differ_in_the_combine_alone(tmp_path: Path) -> None:
    for science in ({}, {"router.combine": "plan"}, {"router.combine": "plan", "router.noise": 0.0}):
        folder = add_run(tmp_path, "sinkhorn_tc", science=science)
        text = (folder / "run.json").read_text()
        combine = science.get("router.combine", "softmax")
        (folder / "run.json").write_text(
            text.replace('"name": "sinkhorn_tc"', f'"combine": "{combine}", "choice": "token"', 1)
        )
        add_metrics(folder, 0.5)
    (section,) = sections(collect(tmp_path).runs)
    (pair,) = pairs(section.rows)
    assert "router.noise" not in pair.plan.runs[0].science
    (axes,) = draw_combine([pair], Histories(section)).axes
    assert axes.get_title(loc="left") == "sinkhorn_tc, tiny, k = 1"
    assert [line.get_xdata()[-1] for line in axes.lines] == [600, 600]  # steps
    summary = tmp_path / pair.plan.runs[0].name / "summary.json"
    summary.write_text(summary.read_text().replace('"steps": 600', '"steps": null'))
    (section,) = sections(collect(tmp_path).runs)
    assert pairs(section.rows) == []  # steps are not known


def test_all_figures_are_whole_files_and_what_is_missing_is_said(section: Section) -> None:
    parts = begin([section], published())()
    drawn = [part for part in parts if isinstance(part, Figure)]
    assert [part.name for part in drawn] == [
        "figure-1", "figure-2-digits 10-shot", "gains", "curves-tiny", "routing-tiny",
    ]  # fmt: skip
    for part in drawn:
        ET.fromstring(part.svg)
        assert part.png.startswith(b"\x89PNG")
        assert part.alt
    (said,) = [part.text for part in parts if isinstance(part, Text)]
    assert "sweep=figure3" in said
    assert drawn[0].alt == "tiny: softmax_ec at capacity 2 has the highest prec@1, 40.0 %."


def test_only_the_largest_sections_are_drawn_and_the_number_is_told(tmp_path: Path) -> None:
    for i in range(6):
        add_run(tmp_path, data=f"set{i}")
    parts = begin(sections(collect(tmp_path).runs))()
    assert len([part for part in parts if isinstance(part, Heading)]) == 4
    assert "4 largest of 6" in parts[-1].text


def test_no_finished_run_gives_no_figure_and_says_so() -> None:
    assert begin([])() == [Text("There are no figures: no run here has finished.")]
