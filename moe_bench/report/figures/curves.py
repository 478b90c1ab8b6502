"""Training curves of one model: accuracy against pictures and FLOPs, and the training loss; a column a capacity.

A ring marks where an MoE model crosses the dense one for the last time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moe_bench.monitor.units import count
from moe_bench.report.collect import Run
from moe_bench.report.figures.gain import dense_beside
from moe_bench.report.figures.history import Curve, overtaking
from moe_bench.report.figures.lines import Histories, draw_curve, draw_ended, end_labels, fit, pictures
from moe_bench.report.figures.style import DARK, Look, capacities, capacity_words, handle, note, panels
from moe_bench.report.groups import Row
from moe_bench.report.price import BACKWARD

LABELS, HEIGHT = 9, 1.85  # so many names fit beside a panel of so many inches


@dataclass(frozen=True)
class Kind:
    """A row of panels: a figure of metrics.jsonl, times ``scale``, against pictures or FLOPs."""

    figure: str
    label: str
    scale: float = 1.0
    flops: bool = False

    def curve(self, runs: Sequence[Run], curve: Curve) -> Curve:
        return curve.scaled(BACKWARD * _flops(runs) if self.flops else 1.0, self.scale)


KINDS = (
    Kind("val/prec1", "prec@1 (%)", 100),
    Kind("val/prec1", "prec@1 (%)", 100, flops=True),
    Kind("train/loss", "training loss"),
)


def draw_curves(
    rows: Sequence[Row], ended: Sequence[Run], histories: Histories, looks: Mapping[tuple[str, str], Look]
) -> tuple[Figure, list[str]]:
    """``rows`` and the runs that ``ended`` early are of one model. Returns where dense is crossed, in words, too."""
    columns = capacities(rows)
    same_price = len({_flops(row.runs) for row in rows}) == 1
    kinds = [kind for kind in KINDS if not (kind.flops and same_price)]
    shown = [looks[key] for key in dict.fromkeys((row.router, row.variant) for row in rows)]
    named = len(shown) <= LABELS and len(columns) <= 2
    handles = [] if named else [handle(look, line=True) for look in shown]
    figure, grid = panels(
        len(kinds), len(columns), HEIGHT, [*handles, *_marks(rows, ended)], sharex="row", sharey="row"
    )
    words = []
    for kind, across in zip(kinds, grid):
        drawn = []
        for axes, capacity in zip(across, columns):
            here = [row for row in rows if row.router == "dense" or row.capacity == capacity]
            curves = [(kind.curve(row.runs, histories.curve(row, kind.figure)), row) for row in here]
            _panel(axes, kind, [(curve, looks[row.router, row.variant]) for curve, row in curves])
            crossings = _crossings(axes, curves) if kind.figure == "val/prec1" else []
            words += [] if kind.flops else crossings
            for run in ended:
                if run.router == "dense" or run.capacity == capacity:
                    draw_ended(axes, kind.curve([run], histories.single(run, kind.figure)), _look(run, looks))
            drawn.append(curves)
        fit(across[0], [curve for curves in drawn for curve, _ in curves])
        across[0].set_ylabel(kind.label)
        for axes, curves in zip(across if named else [], drawn):
            end_labels(axes, [(curve, looks[row.router, row.variant]) for curve, row in curves], HEIGHT)
    for axes, capacity in zip(grid[0], columns):
        axes.set_title(capacity_words(capacity), loc="left")
    return figure, words


def _panel(axes: Axes, kind: Kind, curves: Sequence[tuple[Curve, Look]]) -> None:
    for curve, look in curves:
        draw_curve(axes, curve, look, marked=kind.figure == "val/prec1")
    if not any(len(curve.x) for curve, _ in curves):
        note(axes, "no values yet")
    pictures(axes)
    if kind.flops:
        axes.set_xlabel("training compute (FLOP, forward and backward)")


def _crossings(axes: Axes, curves: Sequence[tuple[Curve, Row]]) -> list[str]:
    """Rings on the panel, and the same in words."""
    rows, words = [row for _, row in curves], []
    of = {id(row): curve for curve, row in curves}
    for curve, row in curves:
        base = None if row.router == "dense" else dense_beside(row, rows)
        if base is None or (at := overtaking(curve, dense := of[id(base)])) is None:
            continue
        axes.plot(*at, "o", markersize=6, markerfacecolor="none", markeredgecolor=DARK, markeredgewidth=0.8, zorder=5)
        side = "ahead of" if curve.mean[-1] > dense.mean[-1] else "behind"
        words.append(f"{row.router} at {capacity_words(row.capacity)} is {side} dense from {count(at[0])} pictures on")
    return words


def _flops(runs: Sequence[Run]) -> float:
    """Of a forward pass of one picture."""
    return next((flops for run in runs if (flops := run.number("flops/image"))), float("nan"))


def _look(run: Run, looks: Mapping[tuple[str, str], Look]) -> Look:
    """Of a run that is in no row: that of the first of its router."""
    return next(look for (router, _), look in looks.items() if router == run.router)


def _marks(rows: Sequence[Row], ended: Sequence[Run]) -> list[Artist]:
    ring: dict[str, Any] = {
        "marker": "o",
        "markersize": 6,
        "markerfacecolor": "none",
        "markeredgecolor": DARK,
        "linestyle": "",
    }
    cross: dict[str, Any] = {"marker": "x", "markersize": 5, "color": DARK, "linestyle": ""}
    marks: list[Artist] = []
    if any(row.router == "dense" for row in rows):
        marks.append(Line2D([], [], label="crosses dense for the last time", **ring))
    if ended:
        marks.append(Line2D([], [], label="a run that failed or diverged ends", **cross))
    return marks
