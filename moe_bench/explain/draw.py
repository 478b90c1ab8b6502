"""Pictures of routings: experts down, tokens across, and above each token the patch that it is.

One colour scale of falling lightness, so that it holds in grey print and for every eye. What matters most has a shape
too: a cross is a dropped wish, a hatch a token that no expert processes.

T tokens of all pictures, E experts, C slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray
from torch import Tensor

from moe_bench.explain.routed import Routed
from moe_bench.explain.scene import Scene

NOTHING, DARK, LOST = "#ececec", "#333333", "#D55E00"  # the last: vermilion of Okabe and Ito's palette
WEIGHTS = mpl.colormaps["viridis_r"].with_extremes(bad="white", under=NOTHING)
SEATS = ListedColormap([NOTHING, DARK]).with_extremes(bad="white")
LEAST = 1e-9  # a weight below it is drawn as nothing
DPI = 180
WIDTH, PER_TOKEN = 5.2, 2.5 / DPI  # inches: of a picture, more where a token would have less than 2.5 dots
CROSS = 3.5  # points
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "moe-bench",
    "savefig.dpi": DPI,
}

AFFINITY = {
    "softmax": "affinity Π = softmax(XW), eq. 6",
    "sinkhorn": "affinity Π, the transport plan of eq. 8",
    "sparse": "affinity Π, the sparse transport plan of eq. 9",
    "soft": "logits Z of eq. 10, alike for all slots of an expert",
}


def style() -> AbstractContextManager[None]:
    """To draw and save under: sizes of letters and dots, and SVG that is the same each time."""
    return mpl.rc_context(STYLE)


def draw_router(scene: Scene, routed: Routed) -> Figure:
    """Affinity, dispatch and combine of one router over the same tokens, and what each expert and token got of them."""
    tokens, experts = routed.dispatch.shape
    fair = tokens / experts
    figure = Figure((_width(scene), 4.6), layout="constrained")
    grid = _grid(figure, (6, 6, 6, 2.4))
    _pictures(figure, grid, scene)
    _note(figure, grid, f"{routed.name}\n{tokens} tokens\n{experts} experts\n{routed.slots} slots each")

    affinity, dispatch, combine, below = (figure.add_subplot(grid[row, 0]) for row in range(2, 6))
    _cells(affinity, routed.affinity, scene)
    _title(affinity, AFFINITY[routed.name.split("_")[0]])
    _scale(figure, grid, 2, affinity)
    if not routed.soft:
        _bars(figure, grid, 2, affinity, routed.affinity.sum(0), fair, "sum")
    _dispatch(figure, grid, 3, dispatch, routed, scene)
    _title(dispatch, _dispatch_title(routed))
    _cells(combine, routed.combine, scene)
    _title(combine, "combine C: what the expert's output counts for the token")
    _scale(figure, grid, 4, combine)
    _bars(figure, grid, 4, combine, routed.combine.sum(0), fair, "sum")
    _tokens(below, routed, scene)
    return figure


def draw_all(scene: Scene, several: Sequence[Routed]) -> Figure:
    """The dispatch of all routers, one above the other over the same tokens."""
    figure = Figure((_width(scene), 1.0 + 0.82 * len(several)), layout="constrained")
    grid = _grid(figure, [6] * len(several))
    _pictures(figure, grid, scene)
    for row, routed in enumerate(several, start=2):
        axes = figure.add_subplot(grid[row, 0])
        _dispatch(figure, grid, row, axes, routed, scene)
        _title(axes, f"{routed.name}: {_covered(routed)}")
    return figure


def _grid(figure: Figure, heights: Sequence[float]) -> GridSpec:
    """Rows: the pictures, their patches, then what is drawn of them. Columns: tokens, a colour scale, experts."""
    return figure.add_gridspec(2 + len(heights), 3, width_ratios=(1, 0.015, 0.15), height_ratios=(4.5, 1, *heights))


def _columns(scene: Scene) -> NDArray[np.int64]:
    """(T,) where each token stands: those of a picture side by side, a gap of a sixteenth between pictures."""
    pictures, tokens = scene.tokens.shape[:2]
    token = np.arange(pictures * tokens)
    return token + token // tokens * max(1, tokens // 16)


def _width(scene: Scene) -> float:
    """Inches, so that no token falls between two dots."""
    return max(WIDTH, 1.5 + PER_TOKEN * float(_columns(scene)[-1]))


def _pictures(figure: Figure, grid: GridSpec, scene: Scene) -> None:
    """The whole pictures above their tokens, and above each token its patch."""
    columns, side, tokens = _columns(scene), scene.patch, scene.tokens.shape[1]
    ends = (-0.5, columns[-1] + 0.5)
    above, axes = (figure.add_subplot(grid[row, 0], xlim=ends) for row in (0, 1))
    for first, picture in zip(columns[::tokens], scene.pictures):
        inset = above.inset_axes((first - 0.5, 0, tokens, 1), transform=above.get_xaxis_transform())
        inset.imshow(_shown(picture), interpolation="nearest")
        inset.set_axis_off()
    strip = np.ones((side, (columns[-1] + 1) * side, 3))
    for column, patch in zip(columns, scene.patches()):
        if patch is not None:
            strip[:, column * side : (column + 1) * side] = _shown(patch)
    axes.imshow(strip, extent=(*ends, 0, 1), interpolation="nearest")
    for blank in (above, axes):
        blank.set_axis_off()


def _shown(pixels: Tensor) -> NDArray[np.float32]:
    """(3, S, S) in [-1, 1] → (S, S, 3) in [0, 1]."""
    return ((pixels.permute(1, 2, 0) + 1) / 2).numpy()


def _note(figure: Figure, grid: GridSpec, text: str) -> None:
    """The corner at the upper right: whose picture this is."""
    corner = figure.add_subplot(grid[0, 2])
    corner.text(0, 1, text, va="top", linespacing=1.4)
    corner.set_axis_off()


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", pad=3)


def _cells(axes: Axes, values: Tensor, scene: Scene, seats: bool = False) -> None:
    """``values`` (T, E) as cells: seats taken or not, weights on a scale to 1 or more, logits on a scale of theirs."""
    columns, experts = _columns(scene), values.shape[1]
    cells = np.full((experts, columns[-1] + 1), np.nan)
    cells[:, columns] = values.numpy().T
    low, high = float(values.min()), float(values.max())
    ends = (LEAST, max(high, 1.0)) if low >= 0 else (low, high)
    axes.imshow(cells, SEATS if seats else WEIGHTS, vmin=ends[0], vmax=ends[1], aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[0, experts - 1], yticklabels=["1", str(experts)])
    axes.set_ylabel("expert", labelpad=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _scale(figure: Figure, grid: GridSpec, row: int, axes: Axes) -> None:
    """What the colours of a row's matrix mean."""
    bar = figure.colorbar(axes.images[0], cax=figure.add_subplot(grid[row, 1]))
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=3)
    bar.ax.tick_params(length=2, labelsize=7, pad=1)


def _bars(figure: Figure, grid: GridSpec, row: int, axes: Axes, amounts: Tensor, fair: float, title: str) -> Axes:
    """Beside a row's matrix: what each expert gets, with a dotted line at ``fair``."""
    beside = figure.add_subplot(grid[row, 2], sharey=axes)
    beside.barh(np.arange(len(amounts)), amounts.numpy(), 0.7, color=DARK)
    beside.axvline(fair, color=LOST, linewidth=0.9, linestyle=":")
    beside.set(xticks=[fair], xticklabels=[f"{fair:g}"], xlim=(0, 1.04 * max(fair, float(amounts.max()))))
    beside.tick_params(length=0, labelsize=7, labelleft=False, pad=1)
    beside.spines[:].set_visible(False)
    _title(beside, title)
    return beside


def _dispatch(figure: Figure, grid: GridSpec, row: int, axes: Axes, routed: Routed, scene: Scene) -> None:
    """Who sits where, a cross for each dropped wish; beside it the slots, and hatched the wishes beyond them."""
    _cells(axes, routed.dispatch, scene, seats=not routed.soft)
    if routed.soft:
        _scale(figure, grid, row, axes)
        return
    columns = _columns(scene)
    token, expert = routed.dropped.nonzero(as_tuple=True)
    size = min(CROSS, 50 * _width(scene) / columns[-1])  # a token is about as wide
    axes.plot(columns[token.numpy()], expert.numpy(), "x", color=LOST, markersize=size, markeredgewidth=size / 3.5)
    filled, lost = routed.dispatch.sum(0), routed.dropped.sum(0).numpy()
    beside = _bars(figure, grid, row, axes, filled, routed.slots, "slots")
    full = lost.nonzero()[0]
    beside.barh(full, lost[full], 0.7, left=filled.numpy()[full], facecolor="white", edgecolor=LOST, hatch="/////")
    beside.set_xlim(0, 1.04 * float(routed.wishes.sum(0).max().clamp_min(routed.slots)))


def _dispatch_title(routed: Routed) -> str:
    if routed.soft:
        return "dispatch D: weight of the token in each slot of the expert"
    lost = int(routed.dropped.sum())
    crosses = f"; × a wish dropped ({lost} of {int(routed.wishes.sum())})" if lost else ""
    return f"dispatch D: who sits in a slot{crosses}"


def _covered(routed: Routed) -> str:
    lost, tokens = int(routed.uncovered.sum()), len(routed.uncovered)
    if routed.soft:
        return "each token in every slot of its picture, by weight"
    return f"{lost} of {tokens} tokens in no slot"


def _tokens(axes: Axes, routed: Routed, scene: Scene) -> None:
    """Below all: in how many slots each token sits, or its weight in all of them; hatched if in none."""
    columns = _columns(scene)
    each = routed.slots / len(scene.pictures) if routed.soft else 1  # slots behind a cell of the dispatch
    amount = (routed.dispatch.sum(-1) * each).numpy()
    top = max(1.0, float(amount.max()))
    axes.bar(columns, amount, 0.8, color=DARK)
    nowhere = columns[routed.uncovered.numpy()]
    axes.bar(nowhere, top, 0.8, facecolor="white", edgecolor=LOST, hatch="//////", linewidth=0)
    axes.set(xlim=(-0.5, columns[-1] + 0.5), ylim=(0, top), xticks=[], yticks=[0, int(top)])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    weight = "weight of the token in all slots together"
    _title(axes, weight if routed.soft else f"slots that hold the token; {_covered(routed)}")
