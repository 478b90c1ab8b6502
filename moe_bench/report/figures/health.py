"""Routing over training, of one model: a row of panels for each figure of docs/telemetry.md, a column a capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from moe_bench.report.figures.history import Curve
from moe_bench.report.figures.lines import Histories, draw_curve, fit, pictures
from moe_bench.report.figures.style import GREY, Look, capacities, capacity_words, handle, note, panels
from moe_bench.report.groups import Row

HEIGHT, AROUND = 0.95, 0.55  # inches: of a panel, so that its label fits beside it; of the title and the axis of all
FAIR = "expert"
"""The choice under which every expert's load is the fair one, whatever the router learns."""


@dataclass(frozen=True)
class Kind:
    """A figure of the routers that make this choice (all, if empty), with a dotted line at ``level`` if it has one."""

    figure: str
    label: str
    choices: tuple[str, ...] = ()
    scale: float = 1.0
    level: float | None = None

    def curve(self, row: Row, histories: Histories) -> Curve | None:
        """None where the row's router has no such figure."""
        if self.choices and _choice(row) not in self.choices:
            return None
        curve = histories.curve(row, f"routing/{self.figure}")
        return curve.scaled(y=self.scale) if len(curve.x) else None


NOT_FAIR = ("token", "soft", "other")
KINDS = (
    Kind("load/max", "busiest expert\n(1 is fair)", NOT_FAIR, level=1.0),
    Kind("load/cv", "load CV", NOT_FAIR),
    Kind("load/dead", "dead experts\n(%)", NOT_FAIR, scale=100),
    Kind("dropped_tokens", "tokens\ndropped (%)", ("token", "other"), scale=100),
    Kind("uncovered", "tokens\nuncovered (%)", scale=100),
    Kind("affinity_entropy", "affinity\nentropy (nats)"),
    Kind("tokens_per_slot", "tokens a slot\nmixes"),
    Kind("dispatch_max", "dispatch\nweight (max)"),
    Kind("combine_max", "combine\nweight (max)"),
)


def draw_health(rows: Sequence[Row], histories: Histories, looks: Mapping[tuple[str, str], Look]) -> Figure | None:
    """``rows`` are of one model. Figures that no router has are left out; None where none has any."""
    moe = [row for row in rows if row.router != "dense"]
    columns = capacities(moe)
    curves = {kind: [(row, curve) for row in moe if (curve := kind.curve(row, histories))] for kind in KINDS}
    kinds = [kind for kind, found in curves.items() if found]
    if not kinds:
        return None
    drawn = {id(row) for its in curves.values() for row, _ in its}
    shown = dict.fromkeys((row.router, row.variant) for row in moe if id(row) in drawn)
    handles = [handle(looks[key], line=True) for key in shown]
    height = HEIGHT + AROUND / len(kinds)
    figure, grid = panels(len(kinds), len(columns), height, handles, sharex=True, sharey="row")
    for kind, across in zip(kinds, grid):
        for axes, capacity in zip(across, columns):
            for row, curve in curves[kind]:
                if row.capacity == capacity:
                    draw_curve(axes, curve, looks[row.router, row.variant])
            if not axes.lines:
                note(axes, "no such run has finished")
            if kind.level is not None:
                axes.axhline(kind.level, color=GREY, linestyle=":", linewidth=0.9)
        fit(across[0], [curve for _, curve in curves[kind]])
        across[0].set_ylabel(kind.label)
    for top, bottom, capacity in zip(grid[0], grid[-1], columns):
        top.set_title(capacity_words(capacity), loc="left")
        pictures(bottom)
    figure.align_ylabels()
    return figure


def _choice(row: Row) -> str:
    """token, expert, soft or other, by the settings of its runs."""
    router = row.runs[0].config.get("router") if row.runs else None
    return str((router or {}).get("choice") or ("soft" if row.router == "soft" else "other"))
