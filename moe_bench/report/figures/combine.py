"""Figure 3: one router whose experts' outputs are weighed by the softmax of its gate or by its transport plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from moe_bench.report.figures.lines import Histories, draw_curve, fit
from moe_bench.report.figures.style import DASHED, SOLID, Look, capacity_text, handle, panels
from moe_bench.report.groups import Row

LOOKS = {
    "softmax": Look("with softmax combine", "#0072B2", "o", SOLID),
    "plan": Look("without softmax combine (plan)", "#D55E00", "s", DASHED),
}


@dataclass(frozen=True)
class Pair:
    """Two rows that differ in nothing but ``router.combine``."""

    softmax: Row
    plan: Row


def pairs(rows: Sequence[Row]) -> list[Pair]:
    """Those among ``rows``, in their order, that say what a step is."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.runs and _batch(row) and (combine := _router(row).get("combine")) in LOOKS:
            same = {key: value for key, value in row.runs[0].science.items() if key not in ("router.combine", "seed")}
            key = json.dumps([row.router, row.model, row.capacity, same], sort_keys=True)
            found.setdefault(key, {})[combine] = row
    return [Pair(two["softmax"], two["plan"]) for two in found.values() if len(two) == 2]


def draw_combine(found: Sequence[Pair], histories: Histories) -> Figure:
    """A panel a pair: validation accuracy against steps."""
    figure, grid = panels(1, len(found), 2.1, [handle(look, line=True) for look in LOOKS.values()], sharey=True)
    curves = []
    for axes, pair in zip(grid[0], found):
        for row, look in ((pair.softmax, LOOKS["softmax"]), (pair.plan, LOOKS["plan"])):
            curve = histories.curve(row, "val/prec1").scaled(1 / (_batch(row) or 1.0), 100)
            draw_curve(axes, curve, look)
            curves.append(curve)
        k = capacity_text(pair.softmax.capacity)
        axes.set_title(f"{pair.softmax.router}, {pair.softmax.model}, {_letter(pair.softmax)} = {k}", loc="left")
        axes.set_xlabel("training steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    fit(grid[0, 0], curves)
    grid[0, 0].set_ylabel("validation prec@1 (%)")
    return figure


def _letter(row: Row) -> str:
    """k experts a token under token choice, where it is the capacity; else c."""
    return "k" if _router(row).get("choice") == "token" else "c"


def _router(row: Row) -> dict[str, Any]:
    return row.runs[0].config.get("router") or {}


def _batch(row: Row) -> float | None:
    """Pictures a step; None where the run does not say."""
    seen, steps = row.runs[0].number("samples_seen"), row.runs[0].number("steps")
    return seen / steps if seen and steps else None
