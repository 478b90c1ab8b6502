"""Figures 1 and 2: accuracy against what the training cost, a panel for each model, the published points below.

A marker is a router at one capacity, its area the capacity; a grey staircase joins what nothing cheaper beats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moe_bench.monitor.units import MISSING
from moe_bench.report.figures.style import (
    GREY,
    Look,
    area,
    capacities,
    capacity_words,
    handle,
    limits,
    look_of,
    looks,
    note,
    of_model,
    ragged,
)
from moe_bench.report.groups import Row
from moe_bench.report.paper import DAYS, Published
from moe_bench.report.price import FLOPS, Price, price

FRONT: dict[str, Any] = {"color": GREY, "alpha": 0.4, "linewidth": 4, "solid_capstyle": "butt"}
"""Broad and pale: it runs along the intervals of the points that it joins, which would hide a line."""

PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"))


@dataclass(frozen=True)
class Point:
    """One setting: what it cost, how well it did, and half of each 95 % interval where there are seeds for one."""

    look: Look
    capacity: float | None
    dense: bool
    cost: float
    score: float
    cost_half: float | None = None
    score_half: float | None = None


def cost_axis(rows: Sequence[Row]) -> tuple[Price, str]:
    """By what ``rows`` compare, FLOPs in a unit that suits them, and the label of the axis."""
    found = price(row.runs for row in rows)
    if found is not FLOPS:
        return found, f"training cost ({found.unit})"
    most = max((flops for row in rows for run in row.runs if (flops := found.of(run))), default=0.0)
    unit, prefix = next(((unit, name) for unit, name in PREFIXES if most >= unit), (1.0, ""))
    label = f"training compute ({prefix}FLOP, forward and\nbackward; timed on different devices)"
    return replace(found, scale=1 / unit), label


def points(rows: Iterable[Row], figure: str, cost_in: Price, look: Mapping[tuple[str, str], Look]) -> list[Point]:
    """``figure`` of the summaries, a fraction, in percent; rows without it or without a price have no point."""
    found = []
    for row in rows:
        score, cost = row.mean(figure), row.cost(cost_in)
        if score and cost:
            half = None if score.half is None else 100 * score.half
            place = (cost.mean, 100 * score.mean, cost.half, half)
            found.append(Point(look[row.router, row.variant], row.capacity, row.router == "dense", *place))
    return found


def published_points(paper: Published, figure: str) -> dict[str, list[Point]]:
    """What the paper reports, by model."""
    found: dict[str, list[Point]] = {}
    for model, router, capacity in paper.values:
        score, cost = (paper.text(name, model, router, capacity) for name in (figure, DAYS))
        if MISSING not in (score, cost):
            point = Point(look_of(router), capacity, False, float(cost), float(score))
            found.setdefault(model, []).append(point)
    return found


def front(found: Iterable[Point]) -> list[Point]:
    """The Pareto front, the cheapest first: points that no other beats at their cost or below it."""
    best: list[Point] = []
    for point in sorted(found, key=lambda point: (point.cost, -point.score)):
        if not best or point.score > best[-1].score:
            best.append(point)
    return best


def draw_cost(
    rows: Sequence[Row], figure: str, label: str, published: Mapping[str, list[Point]] | None = None, source: str = ""
) -> Figure:
    """A panel for each model of ``rows``; below them one for each of ``published``, whose scores are of ``source``."""
    (cost_in, across), look, models = cost_axis(rows), looks(rows), of_model(rows)
    ours = {model: points(its, figure, cost_in, look) for model, its in models.items()}
    below = published or {}
    handles = _handles(rows, [*ours.values(), *below.values()])
    drawn, grid = ragged([len(found) for found in (ours, below) if found], 2.2, handles)
    for axes, (model, found) in zip(grid[0], ours.items()):
        _panel(axes, found, model, across)
    for axes, (model, found) in zip(grid[-1], below.items()):
        _panel(axes, found, f"{model}, as published", "training cost (TPUv3-days)")
    for across_page, words in zip(grid, (label, source)):
        across_page[0].set_ylabel(words)
    return drawn


def _panel(axes: Axes, found: list[Point], title: str, label: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    if not found:
        note(axes, "no values yet")
        return
    best = front(found)
    axes.step([p.cost for p in best], [p.score for p in best], where="post", zorder=1.4, **FRONT)
    _intervals(axes, found)
    for point in sorted(found, key=lambda point: -(point.capacity or 0)):  # small ones on top
        _draw(axes, point)
    cheapest, dearest = limits([(p.cost, p.cost_half) for p in found])
    axes.set_xlim(max(0.0, cheapest), dearest)
    axes.set_ylim(limits([(p.score, p.score_half) for p in found]))


def _intervals(axes: Axes, found: Sequence[Point]) -> None:
    """All at once: matplotlib takes as long for one as for a hundred."""
    cost, score = np.array([p.cost for p in found]), np.array([p.score for p in found])
    across, up = (np.array(halves, float) for halves in zip(*((p.cost_half, p.score_half) for p in found)))  # None: nan
    look: dict[str, Any] = {"colors": [p.look.colour for p in found], "linewidth": 0.7, "zorder": 2}
    axes.hlines(score, cost - across, cost + across, **look)
    axes.vlines(cost, score - up, score + up, **look)


def _draw(axes: Axes, point: Point) -> None:
    look, size = point.look, math.sqrt(area(None if point.dense else point.capacity))
    marker = {**look.point, "markersize": size, "markeredgewidth": 0.3 if look.fill == "full" else 0.8, "linestyle": ""}
    axes.plot([point.cost], [point.score], zorder=2.1, **marker)
    if point.dense:
        axes.axhline(point.score, linewidth=0.9, zorder=1.5, **look.line)


def _handles(rows: Sequence[Row], panels: Sequence[list[Point]]) -> list[Artist]:
    """Routers, sizes for capacities, the front where it is more than a point."""
    shown = [point for found in panels for point in found]
    by_look = {point.look.label: handle(point.look, line=point.dense) for point in shown}
    sizes = dict.fromkeys([*capacities(row for row in rows if row.runs), *(p.capacity for p in shown if not p.dense)])
    circle: dict[str, Any] = {"marker": "o", "linestyle": "", "color": GREY, "markeredgewidth": 0}
    circles = [Line2D([], [], label=capacity_words(c), markersize=math.sqrt(area(c)), **circle) for c in sizes]
    staircase = [Line2D([], [], label="Pareto front", **FRONT)]
    drawn = any(len(front(found)) > 1 for found in panels)
    return [*by_look.values(), *(circles if len(circles) > 1 else []), *(staircase if drawn else [])]
