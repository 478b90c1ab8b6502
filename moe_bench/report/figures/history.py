"""How runs came to their result: metrics.jsonl, thinned to what a figure can show.

Validations are all kept. Of the training rows, about ``PER_BIN`` evenly spaced ones in each of ``BINS`` spans of the
training are read, so that a thousand runs take seconds; a span has the mean of its rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_bench.report.collect import Run, as_number
from moe_bench.report.interval import half_width

METRICS = "metrics.jsonl"
PICTURES = "samples_seen"
BINS, PER_BIN = 60, 2
ROUNDING = 1e-9  # a lead as small as this is none
ROUTING = (
    *("load/max", "load/cv", "load/dead", "dropped_tokens", "uncovered", "affinity_entropy"),
    *("tokens_per_slot", "dispatch_max", "combine_max"),
)
TRAINING = ("train/loss", *(f"routing/{name}" for name in ROUTING))
"""What is kept of training rows."""

Points = Mapping[float, float]
"""Training pictures seen → a figure."""

History = Mapping[str, Points]
"""A figure's name → what it was over one run."""


@dataclass(frozen=True)
class Curve:
    """A figure over training: its mean over seeds, and half the width of the 95 % interval (nan for one seed)."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    half: NDArray[np.float64]

    def scaled(self, x: float = 1.0, y: float = 1.0) -> Curve:
        """In other units."""
        return Curve(x * self.x, y * self.mean, y * self.half)


def read(run: Run) -> History:
    """Its figures; none where metrics.jsonl cannot be read. A torn last line does not count."""
    lines = _lines(run)
    training = [line for line in lines if b'"train/loss"' in line]
    every = max(1, len(training) // (BINS * PER_BIN))
    return {
        "val/prec1": _validations(lines),
        **_binned(_rows(training[(len(training) - 1) % every :: every])),
    }


def validations(run: Run, place: str = PICTURES) -> Points:
    """prec@1 by pictures seen, or by another ``place``, such as the step, that each row has."""
    return _validations(_lines(run), place)


def over_seeds(histories: Iterable[History], figure: str) -> Curve:
    """One curve of several runs that differ in their seed; at each point, of those that have it."""
    found: dict[float, list[float]] = {}
    for history in histories:
        for x, value in history.get(figure, {}).items():
            found.setdefault(x, []).append(value)
    places = sorted(found)
    return Curve(
        np.array(places), np.array([fmean(found[x]) for x in places]), np.array([_half(found[x]) for x in places])
    )


def _half(values: Sequence[float]) -> float:
    """Half the 95 % interval of a mean, nan of one value; as ``Mean.half``, a hundred times as fast."""
    return half_width(float(np.std(values, ddof=1)), len(values)) if len(values) > 1 else math.nan


def overtaking(curve: Curve, other: Curve) -> tuple[float, float, bool] | None:
    """(x, y, whether upwards) where ``curve`` crosses ``other`` for the last time, between points on straight lines.

    None if never, and where they end level. Where they go level for a while, it crosses at the end of that.
    """
    if not len(curve.x) or not len(other.x):
        return None
    x = np.union1d(curve.x, other.x)
    x = x[(x >= max(curve.x[0], other.x[0])) & (x <= min(curve.x[-1], other.x[-1]))]
    y = np.interp(x, curve.x, curve.mean)
    lead = y - np.interp(x, other.x, other.mean)
    lead[np.abs(lead) < ROUNDING] = 0.0
    apart = np.flatnonzero(lead)
    turns = np.flatnonzero(lead[apart[:-1]] * lead[apart[1:]] < 0)
    if not len(turns) or not lead[-1]:
        return None
    after = apart[turns[-1] + 1]
    i = after - 1
    share = lead[i] / (lead[i] - lead[after])
    return float(x[i] + share * (x[after] - x[i])), float(y[i] + share * (y[after] - y[i])), bool(lead[after] > 0)


def _lines(run: Run) -> list[bytes]:
    """Whole ones; none where the file cannot be read."""
    try:
        data = (run.path / METRICS).read_bytes()
    except OSError:
        return []
    return data[: data.rfind(b"\n") + 1].splitlines()


def _validations(lines: Iterable[bytes], place: str = PICTURES) -> Points:
    return _points(_rows((line for line in lines if b'"val/prec1"' in line), place), "val/prec1", place)


def _rows(lines: Iterable[bytes], place: str = PICTURES) -> list[dict[str, Any]]:
    """Those lines that are rows with their place."""
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and as_number(row.get(place)) is not None:
            rows.append(row)
    return rows


def _points(rows: Iterable[Mapping[str, Any]], figure: str, place: str) -> Points:
    """The last value counts where a place has several; what was no number (null) has no point."""
    found = {row[place]: as_number(row.get(figure)) for row in rows}
    return {float(x): value for x, value in found.items() if value is not None}


def _binned(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Means over the ``BINS`` spans between no picture and the last row, each at the middle of its span."""
    if not rows:
        return {}
    total = max(row[PICTURES] for row in rows)
    width = total / BINS
    spans: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        span = max(0, math.ceil(BINS * row[PICTURES] / total) - 1) if total else 0
        for name in TRAINING:
            if (value := as_number(row.get(name))) is not None:
                spans.setdefault(name, {}).setdefault(span, []).append(value)
    return {name: {(i + 0.5) * width: fmean(values) for i, values in found.items()} for name, found in spans.items()}
