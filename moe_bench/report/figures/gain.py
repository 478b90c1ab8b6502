"""What each router adds to the dense model: the difference of scores, paired by seed, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moe_bench.report.figures.style import DARK, Look, capacities, capacity_words, limits, note, of_model, panels
from moe_bench.report.groups import Mean, Row, mean_of
from moe_bench.report.settings import same_model
from moe_bench.report.tables import Column

BAR, BETWEEN = 0.11, 0.1  # inches: a bar's height, the space between two routers
PALEST = 0.35  # of a router's colour in the bars of the smallest capacity


def gain(row: Row, dense: Row, figure: str) -> Mean | None:
    """Over the seeds that both have, in points; None where they share none."""
    return mean_of([100 * lead for lead in row.lead(dense, figure).values()])


def dense_beside(row: Row, rows: Sequence[Row]) -> Row | None:
    """The dense one among ``rows`` whose model is that of ``row``; rows with runs only."""
    dense = (other for other in rows if other.router == "dense")
    return next((other for other in dense if same_model(row.runs[0], other.runs[0])), None)


def draw_gains(rows: Sequence[Row], columns: Sequence[Column], looks: Mapping[tuple[str, str], Look]) -> Figure | None:
    """A row of panels a model, a column a score; None where no model was trained dense and with experts."""
    models = {
        model: its
        for model, its in of_model(rows).items()
        if {row.router == "dense" for row in its} == {True, False}
    }  # fmt: skip
    if not models:
        return None
    sizes = capacities(row for its in models.values() for row in its)
    handles = [Patch(color=_shade(DARK, i, len(sizes)), label=capacity_words(c)) for i, c in enumerate(sizes)]
    most = max(len({(row.router, row.variant) for row in its}) for its in models.values()) - 1
    height = 0.75 + most * (BAR * len(sizes) + BETWEEN)
    figure, grid = panels(len(models), len(columns), height, handles if len(sizes) > 1 else [], sharey="row")
    for across, (model, its) in zip(grid, models.items()):
        for axes, column in zip(across, columns):
            _panel(axes, its, column.figure, looks, sizes)
            axes.set_title(column.heading.removesuffix(" %"), loc="left")
        across[0].set_ylabel(model)
    for axes in grid[-1]:
        axes.set_xlabel("points above dense")
    return figure


def _panel(
    axes: Axes, rows: Sequence[Row], figure: str, looks: Mapping[tuple[str, str], Look], sizes: list[float | None]
) -> None:
    moe = [row for row in rows if row.router != "dense"]
    names = list(dict.fromkeys((row.router, row.variant) for row in moe))
    thick = BAR / (BAR * len(sizes) + BETWEEN)
    bars, places, faces, edges = [], [], [], []
    for row in moe:
        dense = dense_beside(row, rows)
        if dense and (found := gain(row, dense, figure)):
            i, key = sizes.index(row.capacity), (row.router, row.variant)
            bars.append((found.mean, found.half))
            places.append(names.index(key) + (i - (len(sizes) - 1) / 2) * thick)
            faces.append(_shade(looks[key].colour, i, len(sizes)))
            edges.append(looks[key].colour)
    means, halves = [mean for mean, _ in bars], [half or math.nan for _, half in bars]
    axes.barh(places, means, thick, color=faces, edgecolor=edges, linewidth=0.5)
    axes.errorbar(means, places, xerr=halves, fmt="none", ecolor=DARK, elinewidth=0.8, capsize=1.5)
    axes.axvline(0, color=DARK, linewidth=0.7)
    axes.set_yticks(range(len(names)), [looks[name].label for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    if bars:
        axes.set_xlim(limits([*bars, (0.0, None)]))
    else:
        note(axes, "no seed that a dense run of this model has too")


def _shade(colour: str, i: int, of: int) -> tuple[float, float, float]:
    """The colour itself for the last of ``of`` capacities, paler ones before it."""
    share = 1.0 if of == 1 else PALEST + (1 - PALEST) * i / (of - 1)
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return red, green, blue
