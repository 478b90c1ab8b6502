"""What ``moe-bench evaluate`` found of finished runs: other capacities and neighbours, the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from moe_bench.report.collect import Run, as_number
from moe_bench.report.groups import Mean, Row, Section, mean_of
from moe_bench.report.tables import Column, Table, capacity_text, heading, router_text, value_cell

EVALUATION = "evaluation.json"
TRAINED = "as trained"
ALONE = "one image a group"
CHANGED = "changed by order"
NOTE = (
    "Accuracies are prec@1 in percent, ± 95 % CI over seeds, of the same weights: as trained, at other capacities of "
    "evaluation, and with each image routed alone. Changed by order: share of pictures that get another first answer "
    "when other pictures share their group."
)


@dataclass(frozen=True)
class Evaluated:
    """A row of a section with what each of its runs gave: by seed, name of the setting → share of 1."""

    row: Row
    at_capacity: list[dict[float, float]]
    others: list[dict[str, float]]

    def at(self, capacity: float) -> Mean | None:
        """prec@1 at a capacity of evaluation, all else as trained."""
        return mean_of([values[capacity] for values in self.at_capacity if capacity in values])

    def other(self, name: str) -> Mean | None:
        return mean_of([values[name] for values in self.others if name in values])


def evaluated(section: Section) -> list[Evaluated]:
    """Rows of which a run was evaluated. A damaged file counts as absent."""
    found = []
    for row in section.rows:
        seeds = {run.seed: settings for run in row.runs if (settings := _settings(run))}
        if seeds:
            found.append(Evaluated(row, [*map(_by_capacity, seeds.values())], [*map(_others, seeds.values())]))
    return found


def capacities(found: Sequence[Evaluated]) -> list[float]:
    """All at which any was evaluated."""
    return sorted({capacity for one in found for values in one.at_capacity for capacity in values})


def evaluation_table(section: Section) -> list[Table]:
    """A row a setting of training, a column a setting of evaluation; none where nothing was evaluated."""
    found = evaluated(section)
    if not found:
        return []
    sizes = capacities(found)
    means = [
        (Column(TRAINED, "", 100, 1), [one.other(TRAINED) for one in found]),
        *((Column(f"at {size:g}", "", 100, 1), [one.at(size) for one in found]) for size in sizes),
        *((Column(name, "", 100, 1), [one.other(name) for one in found]) for name in (ALONE, CHANGED)),
    ]
    seeds = [len(one.others) for one in found]
    columns = [(column, [value_cell(mean, column, n) for mean, n in zip(of, seeds)]) for column, of in means if any(of)]
    headings = ["model", "c", "router", "seeds", *(heading(column, cells) for column, cells in columns)]
    labels = [
        [one.row.model, capacity_text(one.row.capacity), router_text(one.row), str(n)] for one, n in zip(found, seeds)
    ]
    rows = [[*label, *cells] for label, *cells in zip(labels, *(cells for _, cells in columns))]
    return [Table(f"Evaluated otherwise than trained: {section.title}", headings, rows, [NOTE], labels=3)]


def _settings(run: Run) -> list[dict[str, Any]]:
    """Those with a prec@1, the run's own first."""
    with suppress(OSError, ValueError, RecursionError):
        document = json.loads((run.path / EVALUATION).read_bytes())
        settings = document.get("settings") if isinstance(document, dict) else None
        if isinstance(settings, list) and settings:
            found = [one for one in settings if isinstance(one, dict) and as_number(one.get("prec1")) is not None]
            return found if found[:1] == settings[:1] else []
    return []


def _by_capacity(settings: list[dict[str, Any]]) -> dict[float, float]:
    """Those that differ from the run's own in nothing else."""
    own = settings[0]
    alike = [one for one in settings if all(one.get(name) == own.get(name) for name in ("group_images", "k", "order"))]
    return {capacity: one["prec1"] for one in alike if (capacity := as_number(one.get("capacity"))) is not None}


def _others(settings: list[dict[str, Any]]) -> dict[str, float]:
    own = settings[0]
    alike = [one for one in settings if all(one.get(name) == own.get(name) for name in ("capacity", "k"))]
    found = {TRAINED: own["prec1"]}
    for one in alike:
        if one.get("group_images") == 1 != own.get("group_images") and not one.get("order"):
            found[ALONE] = one["prec1"]
    changes = [change for one in alike if one.get("order") and (change := _changed(one)) is not None]
    return found | ({CHANGED: sum(changes) / len(changes)} if changes else {})


def _changed(setting: dict[str, Any]) -> float | None:
    change = setting.get("change")
    return as_number(change.get("changed")) if isinstance(change, dict) else None
