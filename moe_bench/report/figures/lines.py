"""Curves over training: a mean with its band, and the router's name at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from moe_bench.report.collect import Run
from moe_bench.report.figures.history import Curve, History, over_seeds, read
from moe_bench.report.figures.style import DARK, Look, limits
from moe_bench.report.groups import Row, Section

MARKERS = 7  # on a curve, at most
LABEL_POINTS = 6.5
CROSS: dict[str, Any] = {"marker": "x", "markersize": 5, "markeredgewidth": 1, "color": DARK, "linestyle": ""}
ENDS = ("diverged", "failed")
"""States of runs that are drawn as far as they came."""


class Histories:
    """What the runs of a section wrote while they trained, each read once."""

    def __init__(self, section: Section) -> None:
        ended = [run for run in section.others if run.state in ENDS]
        runs = [*(run for row in section.rows for run in row.runs), *ended]
        self.ended = ended
        self._of: Mapping[str, History] = {run.name: read(run) for run in runs}

    def __bool__(self) -> bool:
        return any(any(history.values()) for history in self._of.values())

    def curve(self, row: Row, figure: str) -> Curve:
        """The mean over the seeds of a row; of runs of one seed, as a copied folder makes them, the first."""
        of_seed = {run.seed: run for run in reversed(row.runs)}
        return over_seeds([self._of[run.name] for run in of_seed.values()], figure)

    def single(self, run: Run, figure: str) -> Curve:
        return over_seeds([self._of[run.name]], figure)


def draw_curve(axes: Axes, curve: Curve, look: Look, *, marked: bool = True) -> None:
    """Mean, band of the 95 % interval where there is one, and a few markers, not on those of the curve before it."""
    every = max(1, -(-len(curve.x) // MARKERS))
    first = 3 * len(axes.lines) % every
    visible = marked or len(curve.x) == 1  # a line of one point is none
    point = {**look.point, "markevery": (first, every), "markeredgewidth": 0.6} if visible else {}
    axes.plot(curve.x, curve.mean, **look.line, **point, zorder=3)
    axes.fill_between(curve.x, curve.mean - curve.half, curve.mean + curve.half, color=look.colour, alpha=0.13, lw=0)


def fit(axes: Axes, curves: Iterable[Curve]) -> None:
    """The height that shows all means and, as far as it is reasonable, their bands."""
    pairs = [(y, 0.0 if np.isnan(h) else h) for curve in curves for y, h in zip(curve.mean, curve.half)]
    if pairs:
        axes.set_ylim(limits(pairs))


def draw_ended(axes: Axes, curve: Curve, look: Look) -> None:
    """A run that did not finish: thin, with a cross where it ended."""
    axes.plot(curve.x, curve.mean, color=look.colour, linewidth=0.6, zorder=2)
    axes.plot(curve.x[-1:], curve.mean[-1:], **CROSS, zorder=4)


def end_labels(axes: Axes, ends: Sequence[tuple[Curve, Look]], height: float) -> None:
    """Names to the right of a panel of ``height`` inches, each level with the end of its curve, or near it.

    The line to a name begins at the panel's edge: within it, it would look like more of the curve.
    """
    low, high = axes.get_ylim()
    gap = 1.2 * LABEL_POINTS / (0.75 * 72 * height)  # the axis has about three quarters of the panel's height
    found = sorted(((curve, look) for curve, look in ends if len(curve.x)), key=lambda end: end[0].mean[-1])
    wanted = [(float(curve.mean[-1]) - low) / (high - low) for curve, _ in found]
    for (_, look), level, place in zip(found, wanted, spread(wanted, gap)):
        leader: dict[str, Any] = {"color": look.colour, "linewidth": 0.7, "clip_on": False, "transform": axes.transAxes}
        axes.plot([1.0, 1.05], [level, place], **leader)
        axes.text(1.06, place, look.label, transform=axes.transAxes, va="center", fontsize=LABEL_POINTS, color=DARK)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near the ``wanted`` ones, which ascend, ``gap`` apart: those too close make room for each other."""
    groups: list[list[float]] = []  # of places wanted; a group lies around its mean
    for place in wanted:
        groups.append([place])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]


def _bottom(group: Sequence[float], gap: float) -> float:
    """Where the lowest of a group lies, so that all stay in [0, 1] if there is room."""
    height = (len(group) - 1) * gap
    return max(0.0, min(fmean(group) - height / 2, 1 - height))


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + (len(group) - 1) * gap


def pictures(axes: Axes) -> None:
    axes.set_xlabel("training pictures seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
