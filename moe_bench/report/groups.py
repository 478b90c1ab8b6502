"""Which runs may be averaged: those that differ in nothing but their seed.

Runs on other data or with another recipe or probe are in another section; within a section, a row is one router, model
and capacity. Where two rows or sections would have the same name, the settings that set them apart are added; to a row
also those in which its router or model is not the usual one, or its model is not that of the other rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from moe_bench.monitor.units import counted
from moe_bench.report.collect import Run
from moe_bench.report.interval import half_width
from moe_bench.report.price import Price, price
from moe_bench.report.settings import differing, in_words, is_known, means_something, unusual

ROUTER_ORDER = (
    *("dense", "random", "hash", "softmax_tc", "sigmoid_tc", "relu_tc"),
    *("sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft"),
)
ROW_GROUPS = ("router.", "model.", "capacity.")


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation over ``n`` seeds; ``std`` is None for one."""

    mean: float
    std: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the 95 % interval of the mean; None for one seed, which has none."""
        return None if self.std is None else half_width(self.std, self.n)


def mean_of(values: Sequence[float]) -> Mean | None:
    """None of none. To twelve digits, so that equal means are equal whatever they are of: no noise decides a rank."""
    if not values:
        return None
    return Mean(float(f"{fmean(values):.12g}"), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed only. None finished: a gap."""

    router: str
    model: str
    capacity: float | None
    variant: str  # settings, in brackets, that its name does not say
    runs: list[Run]
    _by_figure: dict[str, dict[int | None, float]] = field(default_factory=dict, repr=False, compare=False)

    def mean(self, figure: str) -> Mean | None:
        """Over the seeds that have the figure."""
        return mean_of(list(self.by_seed(figure).values()))

    def by_seed(self, figure: str) -> dict[int | None, float]:
        """Runs of one seed, as a copied folder makes them, are one value: they are no evidence of each other."""
        if figure not in self._by_figure:  # each table and figure asks for the same few again
            self._by_figure[figure] = self._by_seed(lambda run: run.number(figure))
        return self._by_figure[figure]

    def lead(self, other: Row, figure: str) -> dict[int | None, float]:
        """By how much it is ahead of ``other``, by seed; of the seeds that both have."""
        ours, theirs = self.by_seed(figure), other.by_seed(figure)
        return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}

    def cost(self, price: Price) -> Mean | None:
        """Over the seeds that counted it."""
        return mean_of(list(self._by_seed(price.of).values()))

    def _by_seed(self, of: Callable[[Run], float | None]) -> dict[int | None, float]:
        values: dict[int | None, list[float]] = {}
        for run in self.runs:
            if (value := of(run)) is not None:
                values.setdefault(run.seed, []).append(value)
        return {seed: fmean(found) for seed, found in values.items()}

    @property
    def seeds(self) -> int:
        return len({run.seed for run in self.runs})


@dataclass(frozen=True)
class Section:
    """Rows that may be compared: same data, recipe and probe. ``others`` are its runs that did not finish."""

    title: str
    rows: list[Row]
    others: list[Run]

    @property
    def price(self) -> Price:
        """By which its rows compare."""
        return price(row.runs for row in self.rows)

    @property
    def finished(self) -> bool:
        """Whether any of its runs is: else all its rows are gaps."""
        return any(row.runs for row in self.rows)

    @property
    def size(self) -> int:
        return len(self.others) + sum(len(row.runs) for row in self.rows)


def sections(runs: Sequence[Run]) -> list[Section]:
    """Every run in exactly one place; sections by data, the largest first; rows by model size, capacity and router."""
    grouped = _partition(runs, lambda key: not key.startswith(ROW_GROUPS))
    titles = [f"{group[0].data}{length(group[0])}" for group in grouped]
    apart = _distinctions(grouped, titles, lambda key: not key.startswith(ROW_GROUPS))
    named = zip(titles, apart, grouped)
    found = [_section(f"{title} {_brackets(group[0], keys)}".strip(), group) for title, keys, group in named]
    return sorted(found, key=lambda section: (section.title.partition(" (")[0], -section.size, section.title))


def _section(title: str, runs: list[Run]) -> Section:
    finished = [run for run in runs if run.summary is not None]
    grouped = _partition(finished, lambda key: key.startswith(ROW_GROUPS))
    cells = [(group[0].router, group[0].model, group[0].capacity) for group in grouped]
    apart = _distinctions(grouped, cells, lambda key: key.startswith(ROW_GROUPS))
    models = {model: [group[0] for group in grouped if group[0].model == model] for _, model, _ in cells}
    said = [_said(group[0], keys, models[group[0].model]) for group, keys in zip(grouped, apart)]
    rows = [Row(*cell, _brackets(group[0], keys), group) for cell, keys, group in zip(cells, said, grouped)]
    size = {row.model: row.runs[0].number("params/active") or 0.0 for row in rows}
    rows = sorted([*rows, *_gaps(rows, runs)], key=lambda row: order(row, size))
    return Section(title, rows, [run for run in runs if run.summary is None])


def _gaps(rows: list[Row], runs: list[Run]) -> list[Row]:
    """Cells of router × capacity, for each model, that someone asked for in part and that have no finished run."""
    filled = {(row.router, row.model, row.capacity) for row in rows}
    gaps = []
    for model in dict.fromkeys(run.model for run in runs):
        asked = [run for run in runs if run.model == model]
        capacities = dict.fromkeys(run.capacity for run in asked if run.router != "dense")
        cells = {(run.router, run.capacity): None for run in asked}
        cells |= {(run.router, c): None for run in asked if run.router != "dense" for c in capacities}
        gaps += [Row(router, model, c, "", []) for router, c in cells if (router, model, c) not in filled]
    return gaps


def order(row: Row, size: dict[str, float]) -> tuple[Any, ...]:
    """What rows are sorted by; ``size`` is in active parameters, by model."""
    rank = ROUTER_ORDER.index(row.router) if row.router in ROUTER_ORDER else len(ROUTER_ORDER)
    return size.get(row.model, 0.0), row.model, row.capacity or 0.0, rank, row.router, row.variant


def length(run: Run) -> str:
    """The length of training, in words."""
    recipe = run.config.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("steps"), int):
        return ""
    batch = recipe.get("batch")
    pictures = counted(batch, "pictures") if isinstance(batch, int) else "? pictures"
    return f", {counted(recipe['steps'], 'steps')} of {pictures}"


def _partition(runs: Iterable[Run], belongs: Callable[[str], bool]) -> list[list[Run]]:
    """Runs that are equal in all settings whose name ``belongs``; the seed never counts."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        named = {"router.name": run.router, "model.name": run.model, "capacity.factor": run.capacity}
        settings = {**named, "data.name": run.data, **run.science}
        compared = {key: value for key, value in settings.items() if key != "seed" and belongs(key)}
        groups.setdefault(json.dumps(compared, sort_keys=True), []).append(run)
    return list(groups.values())


def _distinctions(
    groups: list[list[Run]], names: Sequence[Hashable], belongs: Callable[[str], bool]
) -> list[list[str]]:
    """For each group the settings that tell it from groups of the same name; empty if there are none."""
    alike: dict[Hashable, list[Run]] = {}
    for group, name in zip(groups, names):
        alike.setdefault(name, []).append(group[0])
    keys = {name: differing(runs, belongs) for name, runs in alike.items()}
    return [keys[name] for name in names]


def _said(run: Run, apart: list[str], beside: list[Run]) -> list[str]:
    """Settings of a row that it has to say: that set it ``apart``, are unusual, or are not those of all its model."""
    groups = ("capacity.",) if is_known(run.model) else ("capacity.", "model.")
    moe = [other for other in beside if other.router != "dense"] if run.router != "dense" else beside
    unlike = differing(moe, lambda key: key != "capacity.factor" and key.startswith(groups))
    return sorted({*apart, *unusual(run), *(key for key in unlike if means_something(run, key))})


def _brackets(run: Run, keys: list[str]) -> str:
    return f"({in_words(run, keys)})" if keys else ""
