"""Few-shot accuracy over the number of shots, and accuracy over the capacity of evaluation: curves over settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from moe_bench.report.evaluations import Evaluated
from moe_bench.report.evaluations import capacities as evaluation_capacities
from moe_bench.report.figures.history import Curve
from moe_bench.report.figures.lines import draw_curve, fit
from moe_bench.report.figures.style import Look, capacities, capacity_words, handle, panels
from moe_bench.report.groups import Mean, Row
from moe_bench.report.tables import PROBE, probe_columns

HEIGHT = 1.85
Looks = Mapping[tuple[str, str], Look]


def shots_of(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Numbers of shots, by data set; only of data sets with several."""
    found: dict[str, list[int]] = {}
    for column in probe_columns(run for row in rows for run in row.runs):
        if match := PROBE.fullmatch(column.figure):
            found.setdefault(match["data"], []).append(int(match["shots"]))
    return {data: shots for data, shots in found.items() if len(shots) > 1}


def draw_shots(rows: Sequence[Row], looks: Looks) -> Figure | None:
    """``rows`` are of one model: a row of panels a data set, a column a capacity; None without several shots."""
    sets, columns = shots_of(rows), capacities(rows)
    if not sets:
        return None
    figure, grid = panels(len(sets), len(columns), HEIGHT, _handles(rows, looks), sharex="row", sharey="row")
    for across, (data, shots) in zip(grid, sets.items()):
        curves = []
        for axes, capacity in zip(across, columns):
            for row in (row for row in rows if row.router == "dense" or row.capacity == capacity):
                curve = _curve(shots, _probe(row, data))
                draw_curve(axes, curve, looks[row.router, row.variant])
                curves.append(curve)
            _ticks(axes, shots)
            axes.set_xlabel("shots a class")
        fit(across[0], curves)
        across[0].set_ylabel(f"{data} (%)")
    for axes, capacity in zip(grid[0], columns):
        axes.set_title(capacity_words(capacity), loc="left")
    return figure


def draw_evaluated(found: Sequence[Evaluated], looks: Looks) -> Figure | None:
    """Of one model, a panel a capacity of training; None where nothing was evaluated at several capacities."""
    moe = [one for one in found if one.row.router != "dense"]
    sizes, columns = evaluation_capacities(moe), capacities(one.row for one in moe)
    if len(sizes) < 2:
        return None
    figure, grid = panels(1, len(columns), HEIGHT, _handles([one.row for one in moe], looks), sharey=True)
    curves = []
    for axes, capacity in zip(grid[0], columns):
        for one in (one for one in moe if one.row.capacity == capacity):
            curve = _curve(sizes, one.at)
            draw_curve(axes, curve, looks[one.row.router, one.row.variant])
            curves.append(curve)
        _ticks(axes, sizes)
        axes.set_xlabel("capacity of evaluation")
        axes.set_title(f"trained at {capacity_words(capacity)}", loc="left")
    fit(grid[0, 0], curves)
    grid[0, 0].set_ylabel("prec@1 (%)")
    return figure


def _curve(places: Sequence[float], mean: Callable[[float], Mean | None]) -> Curve:
    """In percent, at the places that have a mean."""
    found = [(place, value) for place in places if (value := mean(place))]
    halves = [np.nan if value.half is None else value.half for _, value in found]
    x, y = np.array([place for place, _ in found], float), np.array([value.mean for _, value in found])
    return Curve(x, y, np.array(halves)).scaled(y=100)


def _probe(row: Row, data: str) -> Callable[[float], Mean | None]:
    return lambda shots: row.mean(f"probe/{data}/{shots:g}shot")


def _ticks(axes: Axes, places: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda place, _: f"{place:g}")


def _handles(rows: Sequence[Row], looks: Looks) -> list[Artist]:
    return [handle(looks[key], line=True) for key in dict.fromkeys((row.router, row.variant) for row in rows)]
