"""Pictures of one trained layer: which patches go to which experts, and what each expert collects.

Patches that an expert takes are lit, the others faded, so that a map is read as the picture it is of. Colours and
marks as in ``draw``. n pictures shown, S pixels a side, T tokens of a picture, E experts, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from moe_bench.explain.draw import DARK, LOST, NOTHING, WEIGHTS
from moe_bench.explain.seen import Seen, Sent
from moe_bench.explain.specific import Specific

Canvas = NDArray[np.float32]  # (height, width, 3) in [0, 1]

MOST_EXPERTS = 32  # drawn; more would be too small to see
MOST_CLASSES = 40
CELL = 64  # dots a side of a map, about
GAP = 4  # dots between two
FADED = 0.12  # what is left of a patch that an expert does not take
INCH = 0.46  # a side of a map


def drawn_experts(seen: Seen) -> list[int]:
    """All of them, or the MOST_EXPERTS of the largest load."""
    return sorted(seen.load.sum(0).argsort(descending=True, stable=True)[:MOST_EXPERTS].tolist())


def draw_patches(pictures: Tensor, seen: Seen) -> Figure:
    """A row a picture, a column an expert: the patches that it takes; a cross where it was full."""
    sent, experts = seen.shown, drawn_experts(seen)
    covered = ~sent.uncovered
    columns = [_lit(pictures, torch.ones_like(covered)), _lit(pictures, covered)]
    columns += [_lit(pictures, sent.dispatch[..., e] > 0) for e in experts]
    figure, axes, side = _maps(columns, ["picture", "taken"], experts)
    for column, expert in enumerate(experts, start=2):
        _crosses(axes, sent.dropped[..., expert], column, side)
    _class_tokens(axes, sent, experts, side)
    lost, wishes = int(sent.dropped.sum()), int(sent.dropped.sum() + (sent.dispatch > 0).sum())
    dropped = f"; × wishes that found the expert full: {lost} of {wishes}" if lost else ""
    uncovered = f"{int(sent.uncovered.sum())} of {sent.uncovered.numel()} tokens in no slot"
    _titled(figure, f"{seen.name}: lit are the patches in a slot of the expert\n{uncovered}{dropped}")
    return figure


def draw_soft(pictures: Tensor, seen: Seen, which: str) -> Figure:
    """Soft MoE, a row a picture, a column an expert: ``which`` "dispatch" or "combine", over what is even."""
    sent, experts = seen.shown, drawn_experts(seen)
    tokens, count = sent.dispatch.shape[1:]
    over_even = sent.dispatch * tokens if which == "dispatch" else sent.combine * count
    lit = _lit(pictures, torch.ones(over_even.shape[:2]))
    top = float(over_even[..., experts].quantile(0.99) if over_even.numel() < 1e6 else over_even.max())
    shades = [_shade(over_even[..., e] / max(top, 1e-9)) for e in experts]
    figure, axes, _ = _maps([lit, *shades], ["picture"], experts)
    _colours(figure, axes, top)
    words = {
        "dispatch": "how much of each patch is in the expert's slots",
        "combine": "how much the expert's outputs count for each patch",
    }
    _titled(figure, f"{seen.name}: {which}, {words[which]}; 1 is even")
    return figure


def draw_experts(seen: Seen, mosaic: Sequence[Sequence[Tensor]], told: Callable[[int], str]) -> Figure:
    """A row an expert: the patches that it likes best, where its tokens are in the picture, and what is told of it."""
    experts = drawn_experts(seen)
    most = max((len(mosaic[e]) for e in experts), default=0)
    side, rows = CELL // 2, len(experts)
    canvas = np.ones((rows * (side + 2), max(1, most) * (side + 2), 3), np.float32)
    for row, expert in enumerate(experts):
        for column, patch in enumerate(mosaic[expert]):
            _put(canvas, _shown(_resized(patch[None], side))[0], row * (side + 2), column * (side + 2))
    height = 0.3 * rows + 0.7
    width = max(2.4, 0.3 * most)
    figure = Figure((width + 5.6, height), layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=(width, 0.4, 5.0))
    patches, places, words = (figure.add_subplot(grid[0, column]) for column in range(3))
    patches.imshow(canvas, extent=(0, most or 1, rows, 0), aspect="auto", interpolation="nearest")
    _rows(patches, experts)
    patches.set_title("its favourite patches, one a picture", loc="left")
    places.imshow(_places(seen, experts), extent=(0, 1, rows, 0), aspect="auto", interpolation="nearest")
    places.set_title("where", loc="left")
    for row, expert in enumerate(experts):
        words.text(0, row + 0.5, told(expert), va="center")
    words.set(ylim=(rows, 0))
    words.set_title("share of the load · bits about the class · classes over their fair share", loc="left")
    for axes in (places, words):
        axes.set_axis_off()
    _titled(figure, f"{seen.name}: what each expert collects")
    return figure


def draw_classes(seen: Seen, found: Specific, names: Sequence[str]) -> Figure:
    """A row a class, a column an expert: how many times its fair share of the expert the class has."""
    experts = drawn_experts(seen)
    weight = (found.terms.abs() * found.joint.sum(0)).sum(1)
    rows = sorted(weight.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist())
    rows.sort(key=lambda row: int(found.lift[row].argmax()))  # alike beside each other
    figure = Figure((0.24 * len(experts) + 2.8, 0.16 * len(rows) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    lift = found.lift[rows][:, experts].clamp_min(2**-2).log2().numpy()
    image = axes.imshow(lift, "RdBu_r", vmin=-2, vmax=2, aspect="auto", interpolation="nearest")
    axes.set(xticks=range(len(experts)), xticklabels=[e + 1 for e in experts], xlabel="expert")
    axes.set(yticks=range(len(rows)), yticklabels=[names[found.classes[row]] for row in rows])
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ticks=range(-2, 3), fraction=0.04, pad=0.02, shrink=min(1.0, 8 / max(len(rows), 1)))
    bar.ax.set_yticklabels(["≤ ¼", "½", "fair", "2 ×", "≥ 4 ×"])
    bar.outline.set_visible(False)
    shown = f"{len(rows)} of {len(found.classes)}" if len(rows) < len(found.classes) else "all"
    _titled(figure, f"{seen.name}: classes by expert, {shown} classes")
    return figure


def _maps(columns: Sequence[Canvas], before: Sequence[str], experts: Sequence[int]) -> tuple[Figure, Axes, int]:
    """Columns of maps (n, side, side, 3) as one picture: those named ``before``, then one an expert, by its number."""
    pictures, side = columns[0].shape[:2]
    step = side + GAP
    canvas = np.ones((pictures * step, len(columns) * step, 3), np.float32)
    for column, maps in enumerate(columns):
        for row, one in enumerate(maps):
            _put(canvas, one, row * step, column * step)
    figure = Figure((INCH * len(columns) + 0.4, INCH * pictures + 0.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(canvas, interpolation="nearest")
    middles = [column * step + side / 2 for column in range(len(columns))]
    axes.set_xticks(middles, [*before, *(str(e + 1) for e in experts)])
    axes.set_yticks([])
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, pad=1)
    axes.spines[:].set_visible(False)
    return figure, axes, side


def _titled(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=8)


def _crosses(axes: Axes, lost: Tensor, column: int, side: int) -> None:
    """A cross on each lost (n, T) patch of a column of maps."""
    tokens = lost.shape[1]
    grid = isqrt(tokens)
    picture, token = lost[:, tokens - grid * grid :].nonzero(as_tuple=True)
    step, cell = side + GAP, side / grid
    x = column * step + (token % grid + 0.5) * cell - 0.5
    y = picture * step + (token // grid + 0.5) * cell - 0.5
    size = 0.6 * INCH * 72 / grid
    axes.plot(x.numpy(), y.numpy(), "x", color=LOST, markersize=size, markeredgewidth=max(0.4, size / 6))


def _class_tokens(axes: Axes, sent: Sent, experts: Sequence[int], side: int) -> None:
    """A dark dot at the upper left of a map where the expert takes the class token, which has no patch."""
    tokens = sent.dispatch.shape[1]
    if isqrt(tokens) ** 2 == tokens:
        return
    picture, expert = (sent.dispatch[:, 0, experts] > 0).nonzero(as_tuple=True)
    step = side + GAP
    axes.plot((expert + 2) * step, picture * step, "o", color=DARK, markersize=2.5, clip_on=False)


def _lit(pictures: Tensor, on: Tensor) -> Canvas:
    """(n, side, side, 3): ``pictures`` (n, 3, S, S) with the patches faded that ``on`` (n, T) has at 0."""
    mask = _spread(on)
    faded = torch.tensor(int(NOTHING[1:3], 16) / 255)
    pixels = (_resized(pictures, mask.shape[-1]) + 1) / 2
    strength = FADED + (1 - FADED) * mask.unsqueeze(1)
    return (pixels * strength + faded * (1 - strength)).permute(0, 2, 3, 1).clamp(0, 1).numpy()


def _shade(amount: Tensor) -> Canvas:
    """(n, side, side, 3): ``amount`` (n, T) of each patch in colour, 1 or more at the end of the scale."""
    return WEIGHTS(_spread(amount).clamp(1e-9, 1).numpy())[..., :3].astype(np.float32)


def _spread(values: Tensor) -> Tensor:
    """(n, T) → (n, side, side), each token as its patch; a class token, which comes first, has none."""
    grid = isqrt(values.shape[1])
    cells = values[:, values.shape[1] - grid * grid :].unflatten(1, (grid, grid))
    each = max(4, CELL // grid)
    return cells.repeat_interleave(each, 1).repeat_interleave(each, 2).float()


def _resized(pictures: Tensor, side: int) -> Tensor:
    """(n, 3, S, S) → (n, 3, side, side): pixels repeated where they grow, averaged where they shrink."""
    return F.interpolate(pictures, (side, side), mode="nearest" if side >= pictures.shape[-1] else "area")


def _shown(pictures: Tensor) -> Canvas:
    """(n, 3, S, S) in [-1, 1] → (n, S, S, 3) in [0, 1]."""
    return ((pictures.permute(0, 2, 3, 1) + 1) / 2).numpy()


def _put(canvas: Canvas, picture: Canvas, top: int, left: int) -> None:
    canvas[top : top + len(picture), left : left + picture.shape[1]] = picture


def _rows(axes: Axes, experts: Sequence[int]) -> None:
    axes.set_yticks(np.arange(len(experts)) + 0.5, [str(e + 1) for e in experts])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("expert", labelpad=1)


def _places(seen: Seen, experts: Sequence[int]) -> Canvas:
    """How the slots of each expert spread over the picture, a map for each: darkest at twice what is even, or more."""
    amount = seen.by_place[:, experts].T  # (E, T)
    maps = _spread(amount / amount.mean(1, keepdim=True).clamp_min(1e-30) / 2).clamp(0, 1)
    colours = WEIGHTS(maps.clamp_min(1e-9).numpy())[..., :3].astype(np.float32)
    return np.concatenate(list(np.pad(colours, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=1.0)))


def _colours(figure: Figure, axes: Axes, top: float) -> None:
    """What the colours of maps mean, from 0 to ``top``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, top), WEIGHTS)
    bar = figure.colorbar(scale, ax=axes, fraction=0.02, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=3)
    bar.ax.tick_params(length=2, labelsize=7, pad=1)
