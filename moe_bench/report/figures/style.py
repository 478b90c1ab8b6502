"""How figures look: legible in print, for every eye and in grey. A router has a colour, a marker and dashes of its own.

The six routers of the paper have the markers of its figures. Colours are Okabe and Ito's, warm for token choice, cold
for expert choice; a router of the user's own gets one of Tol's by its name, so that it looks the same in each report.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from moe_bench.report.groups import Row
from moe_bench.report.settings import is_as_named
from moe_bench.report.tables import capacity_text

COLUMN, PAGE = 3.4, 7.0
"""Inches: one column of a two-column page, and both."""

DPI = 200
GREY, DARK = "#9a9a9a", "#333333"
AREA = 26.0  # square points of a marker at capacity 1; the area is proportional to the capacity
NARROWEST, LEGEND_LINE = 1.75, 0.16  # inches: the width of a panel, the height of a line of a legend
REACH, MARGIN = 0.6, 0.09  # of the span of what is drawn: how far intervals may widen a panel; what stays free around

STYLE: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "axes.labelcolor": DARK,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may have a $
    "svg.fonttype": "none",
    "svg.hashsalt": "moe-bench",
    "savefig.dpi": DPI,
}


@dataclass(frozen=True)
class Look:
    """Of one router, with its settings where it has several."""

    label: str
    colour: str
    marker: Any
    dashes: Any
    fill: str = "full"  # of FILLS

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.dashes}

    @property
    def point(self) -> dict[str, Any]:
        face, half = ("white", "full") if self.fill == "none" else (self.colour, self.fill)
        shape = {"marker": self.marker, "fillstyle": half, "markeredgecolor": self.colour}
        return {**shape, "markerfacecolor": face, "markerfacecoloralt": "white"}


SOLID, DASHED, DOTTED, MIXED = "-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2))

KNOWN = {
    "softmax_tc": ("#D55E00", "X", DASHED),
    "sinkhorn_tc": ("#E69F00", "P", DASHED),
    "softmax_ec": ("#0072B2", "s", SOLID),
    "sinkhorn_ec": ("#56B4E9", "o", SOLID),
    "sparse_ec": ("#009E73", "^", SOLID),
    "soft": ("#CC79A7", "*", SOLID),
    "dense": ("#000000", "D", DOTTED),
    "random": ("#767676", "v", MIXED),
    "hash": ("#a8a8a8", "<", MIXED),
    "sigmoid_tc": ("#8c510a", "h", DASHED),
    "relu_tc": ("#b09500", "p", DASHED),
}
OWN_COLOURS = ("#332288", "#882255", "#44AA99", "#999933", "#661100", "#6699CC", "#AA4499")
OWN_MARKERS = ("d", ">", (4, 1, 0), (6, 1, 0), (3, 1, 0))  # the last three: stars of so many points
OWN_DASHES = (MIXED, SOLID, DASHED)
VARIANT_DASHES = (SOLID, DOTTED, MIXED, DASHED)
FILLS = ("full", "none", "left", "top", "right", "bottom")
"""What of a marker has its colour: of a router's first variant all, of its second nothing, then a half."""


def style() -> AbstractContextManager[None]:
    """To draw and save under."""
    return mpl.rc_context(STYLE)


def looks(rows: Iterable[Row]) -> dict[tuple[str, str], Look]:
    """The look of each (router, variant) among ``rows``, in their order. A router's variants share its colour.

    The first is the one that is as its name says, if any. A gap, which no figure shows, takes no look from the others.
    """
    rows = list(rows)
    finished = {row.router for row in rows if row.runs}
    found: dict[str, dict[str, bool]] = {}
    for row in rows:
        if row.runs or row.router not in finished:
            found.setdefault(row.router, {})[row.variant] = bool(row.runs) and not is_as_named(row.runs[0])
    own = _own(name for name in found if name not in KNOWN)
    return {
        (router, variant): _variant(router, variant, number, KNOWN.get(router) or own[router])
        for router, variants in found.items()
        for number, variant in enumerate(sorted(variants, key=lambda variant: (variants[variant], variant)))
    }


def _variant(router: str, variant: str, number: int, look: tuple[str, Any, Any]) -> Look:
    """The first is as the router is; of the others the marker has another fill and the line another kind of dashes."""
    colour, marker, dashes = look
    others = [other for other in VARIANT_DASHES if other != dashes]
    label = textwrap.fill(f"{router} {variant}".strip(), 44)
    line = others[(number - 1) % len(others)] if number else dashes
    return Look(label, colour, marker, line, FILLS[number % len(FILLS)])


def _own(names: Iterable[str]) -> dict[str, tuple[str, Any, Any]]:
    """A look by name alone; where two would look alike, the later in the alphabet takes the next."""
    every = len(OWN_COLOURS) * len(OWN_MARKERS)
    taken: dict[int, str] = {}
    for name in sorted(names):
        place = zlib.crc32(name.encode()) % every
        while place in taken and len(taken) < every:
            place = (place + 1) % every
        taken[place if place not in taken else every + len(taken)] = name
    return {
        name: (OWN_COLOURS[place % 7], OWN_MARKERS[place % 5], OWN_DASHES[place % 3]) for place, name in taken.items()
    }


def look_of(router: str) -> Look:
    """Of one of the package's routers, as it is."""
    return _variant(router, "", 0, KNOWN[router])


def area(capacity: float | None) -> float:
    """Square points of a marker."""
    return AREA * min(max(capacity or 1.0, 0.25), 8.0)


def panels(
    rows: int, columns: int, height: float, handles: Sequence[Artist], **shared: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of ``rows`` × ``columns`` panels, each ``height`` inches high, above one legend of all ``handles``."""
    figure = _sheet(rows, columns, height, handles)
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in grid.flat:
        _few_ticks(axes, columns, height)
    return figure, grid


def ragged(counts: Sequence[int], height: float, handles: Sequence[Artist]) -> tuple[Figure, list[list[Axes]]]:
    """As ``panels``, but each row has its own number of panels, which fill it."""
    figure = _sheet(len(counts), max(counts), height, handles)
    cells = math.lcm(*counts)
    grid = figure.add_gridspec(len(counts), cells)
    found = []
    for row, count in enumerate(counts):
        wide = cells // count
        found.append([figure.add_subplot(grid[row, i * wide : (i + 1) * wide]) for i in range(count)])
        for axes in found[-1]:
            _few_ticks(axes, count, height)
    return figure, found


def _sheet(rows: int, columns: int, height: float, handles: Sequence[Artist]) -> Figure:
    """With its legend. A column wide with a single column of panels, else a page; wider for many."""
    width = _width(columns)
    widest = max((len(line) for one in handles for line in str(one.get_label()).splitlines()), default=1)
    beside = max(1, min(len(handles), int(width / (0.42 + 0.055 * widest))))
    lines = -(-len(handles) // beside)
    figure = Figure((width, rows * height + LEGEND_LINE * lines + 0.1), layout="constrained")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=beside, columnspacing=1.2, handletextpad=0.5)
    return figure


def _width(columns: int) -> float:
    return COLUMN if columns == 1 else max(PAGE, NARROWEST * columns)


def _few_ticks(axes: Axes, columns: int, height: float) -> None:
    """As many as have room for figures such as 0.0035; each takes time to draw, too."""
    axes.locator_params(axis="y", nbins=min(7, 2 + round(2.4 * height)))
    axes.locator_params(axis="x", nbins=min(5, max(2, round(1.4 * _width(columns) / columns))), steps=[1, 2, 5, 10])


def handle(look: Look, *, line: bool) -> Line2D:
    """What stands for a router in a legend."""
    drawn = {**look.point, **(look.line if line else {"color": look.colour, "linestyle": ""})}
    return Line2D([], [], label=look.label, **drawn)


def of_model(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows with a finished run, by model, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.runs:
            found.setdefault(row.model, []).append(row)
    return found


def capacities(rows: Iterable[Row]) -> list[float | None]:
    """Those of the MoE models among ``rows``; of the dense ones where there is no other."""
    rows = list(rows)
    found = {row.capacity for row in rows if row.router != "dense"} or {row.capacity for row in rows}
    return sorted(found, key=lambda capacity: capacity or 0.0)


def capacity_words(capacity: float | None) -> str:
    return f"capacity {capacity_text(capacity)}"


def limits(values: Iterable[tuple[float, float | None]]) -> tuple[float, float]:
    """From below the least to above the largest of (value, half of its interval): a very long interval is cut."""
    pairs = [(value, half or 0.0) for value, half in values]
    low, high = min(value for value, _ in pairs), max(value for value, _ in pairs)
    span = (high - low) or abs(high) / 10 or 1.0
    least = max(min(value - half for value, half in pairs), low - REACH * span)
    most = min(max(value + half for value, half in pairs), high + REACH * span)
    return least - MARGIN * span, most + MARGIN * span


def note(axes: Axes, text: str) -> None:
    """In the middle of a panel that has nothing to show: why."""
    axes.text(0.5, 0.5, textwrap.fill(text, 26), transform=axes.transAxes, ha="center", va="center", color=GREY)


def encoded(figure: Figure) -> tuple[bytes, bytes]:
    """(SVG, PNG), the same bytes each time. Letters that the font lacks are boxes in the PNG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if layout := figure.get_layout_engine():  # once: it takes as long as the drawing itself
            layout.execute(figure)
            figure.set_layout_engine(None)
        return _saved(figure, "svg", {"Date": None, "Creator": None}), _saved(figure, "png", {"Software": None})


def _saved(figure: Figure, form: str, metadata: Mapping[str, str | None]) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=form, metadata=dict(metadata))
    return out.getvalue()
