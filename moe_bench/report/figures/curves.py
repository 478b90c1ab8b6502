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
from moe_bench.report.figures.lines import CROSS, Histories, draw_curve, draw_ended, end_labels, fit, pictures
from moe_bench.report.figures.style import DARK, Look, capacities, capacity_words, handle, note, panels
from moe_bench.report.groups import Row
from moe_bench.report.price import BACKWARD

LABELS, HEIGHT = 9, 1.85  # so many names fit beside a panel of so many inches
LETTERS = 24  # of a name beside a panel: a longer one takes the panel's room


RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 6,
    "linestyle": "",
    "markerfacecolor": "none",
    "markeredgecolor": DARK,
    "markeredgewidth": 0.8,
}


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
    found = [[_curves(kind, capacity, rows, ended, histories) for capacity in columns] for kind in kinds]
    shown = [looks[key] for key in dict.fromkeys((row.router, row.variant) for row in rows)]
    short = all(len(look.label) <= LETTERS for look in shown)
    named = short and len(shown) <= LABELS and len(columns) <= 2
    handles = [] if named else [handle(look, line=True) for look in shown]
    marks = _marks([panel for across in found for panel in across])
    figure, grid = panels(len(kinds), len(columns), HEIGHT, [*handles, *marks], sharex="row", sharey="row")
    for kind, across, here in zip(kinds, grid, found):
        for axes, panel in zip(across, here):
            _draw(axes, kind, panel, looks)
        fit(across[0], [curve for panel in here for curve, _ in panel.curves])
        across[0].set_ylabel(kind.label)
        if not any(panel.has_values for panel in here):
            across[0].set(xticks=[], yticks=[])  # of all: they share them
        for axes, panel in zip(across if named else [], here):
            end_labels(axes, [(curve, looks[row.router, row.variant]) for curve, row in panel.curves], HEIGHT)
    for axes, capacity in zip(grid[0], columns):
        axes.set_title(capacity_words(capacity), loc="left")
    words = [
        said for kind, here in zip(kinds, found) if not kind.flops for panel in here for _, said in panel.crossings
    ]
    return figure, words


@dataclass(frozen=True)
class _Panel:
    """What is drawn in it: curves of rows, those of runs that ended early, and where dense is crossed, with words."""

    curves: list[tuple[Curve, Row]]
    ended: list[tuple[Curve, Run]]
    crossings: list[tuple[tuple[float, float], str]]

    @property
    def has_values(self) -> bool:
        return bool(self.ended) or any(len(curve.x) for curve, _ in self.curves)


def _curves(
    kind: Kind, capacity: float | None, rows: Sequence[Row], ended: Sequence[Run], histories: Histories
) -> _Panel:
    """Of one capacity; dense has a curve in each panel."""
    here = [row for row in rows if row.router == "dense" or row.capacity == capacity]
    curves = [(kind.curve(row.runs, histories.curve(row, kind.figure)), row) for row in here]
    runs = [run for run in ended if run.router == "dense" or run.capacity == capacity]
    early = [(kind.curve([run], histories.single(run, kind.figure)), run) for run in runs]
    crossings = _crossings(curves) if kind.figure == "val/prec1" else []
    return _Panel(curves, [(curve, run) for curve, run in early if len(curve.x)], crossings)


def _draw(axes: Axes, kind: Kind, panel: _Panel, looks: Mapping[tuple[str, str], Look]) -> None:
    for curve, row in panel.curves:
        draw_curve(axes, curve, looks[row.router, row.variant], marked=kind.figure == "val/prec1")
    for at, _ in panel.crossings:
        axes.plot(*at, **RING, zorder=5)
    for curve, run in panel.ended:
        draw_ended(axes, curve, _look(run, looks))
    if not panel.has_values:
        note(axes, "nothing was logged")
    pictures(axes)
    if kind.flops:
        axes.set_xlabel("training compute\n(FLOP, forward and backward)")


def _crossings(curves: Sequence[tuple[Curve, Row]]) -> list[tuple[tuple[float, float], str]]:
    """Where, and the same in words."""
    rows, found = [row for _, row in curves], []
    of = {id(row): curve for curve, row in curves}
    for curve, row in curves:
        base = None if row.router == "dense" else dense_beside(row, rows)
        if base is None or (crossing := overtaking(curve, of[id(base)])) is None:
            continue
        x, y, upwards = crossing
        side = "ahead of" if upwards else "behind"
        where = f"{row.router} at {capacity_words(row.capacity)}"
        found.append(((x, y), f"{where} is {side} dense from {count(x)} pictures on"))
    return found


def _flops(runs: Sequence[Run]) -> float:
    """Of a forward pass of one picture."""
    return next((flops for run in runs if (flops := run.number("flops/image"))), float("nan"))


def _look(run: Run, looks: Mapping[tuple[str, str], Look]) -> Look:
    """Of a run that is in no row: that of the first of its router."""
    return next(look for (router, _), look in looks.items() if router == run.router)


def _marks(shown: Sequence[_Panel]) -> list[Artist]:
    """Of a legend: what stands in some panel."""
    marks: list[Artist] = []
    if any(panel.crossings for panel in shown):
        marks.append(Line2D([], [], label="crosses dense for the last time", **RING))
    if any(panel.ended for panel in shown):
        marks.append(Line2D([], [], label="a run that failed or diverged ends", **CROSS))
    return marks
