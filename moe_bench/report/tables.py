"""Sections as tables of text: router × model × capacity against accuracy and price, with units in every heading.

A table is plain strings; ``render`` makes it a terminal table, Markdown or CSV.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from moe_bench.monitor.units import MISSING, significant
from moe_bench.report.collect import Run
from moe_bench.report.groups import Mean, Row, Section
from moe_bench.report.paper import Published

PROBE = re.compile(r"probe/(?P<data>.+)/(?P<shots>\d+)shot")


@dataclass(frozen=True)
class Column:
    """A figure of the summary: its heading with unit, what it is multiplied by, and digits after the point."""

    heading: str
    figure: str
    scale: float = 1.0
    decimals: int | None = None  # None: three significant digits


@dataclass(frozen=True)
class Table:
    """Text, ready to be laid out. The first ``labels`` columns are words, the others figures."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    labels: int = 2
    breaks: list[int] = field(default_factory=list)  # row numbers before which a new block begins
    spare: list[int] = field(default_factory=list)  # columns that a narrow terminal leaves out, first to go first


PRICE = (
    Column("device-days", "cost/device_days"),
    Column("img/s", "cost/images_per_s"),
    Column("GFLOP/img", "flops/image", 1e-9),
    Column("params M", "params/total", 1e-6),
    Column("active M", "params/active", 1e-6),
)


def result_table(section: Section, published: Published | None = None) -> Table:
    """One row a router, model and capacity: mean ± standard deviation over seeds. Gaps are –."""
    finished = [run for row in section.rows for run in row.runs]
    columns = [Column("prec@1 %", "val/prec1", 100, 1), *probe_columns(finished), *PRICE]
    headings = ["model", "c", "router", "seeds", *(column.heading for column in columns)]
    headings += published.headings if published else []
    rows = []
    for row in section.rows:
        cells = [value_cell(row.mean(column.figure), column, row.seeds) for column in columns]
        extra = published.cells(row.model, row.router, row.capacity) if published else []
        rows.append([*_labels(row), str(row.seeds or MISSING), *cells, *extra])
    keys = [(row.model, row.capacity) for row in section.rows]
    breaks = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]]
    notes = [*result_notes(finished), *unfinished_notes(section.others)]
    spare = [4 + columns.index(column) for column in reversed(PRICE)]
    spare += [len(headings) - 1] if published else []
    return Table(section.title, headings, rows, notes, labels=3, breaks=breaks, spare=spare)


def _labels(row: Row) -> list[str]:
    capacity = MISSING if row.capacity is None else f"{row.capacity:g}"
    return [row.model, capacity, f"{row.router} {row.variant}".strip()]


def probe_columns(runs: Iterable[Run]) -> list[Column]:
    """One column for each probe that any of ``runs`` has, by data set and shots."""
    names = {name for run in runs for name in run.summary or {}}
    found = sorted((m["data"], int(m["shots"])) for name in names if (m := PROBE.fullmatch(name)))
    return [Column(f"{data} {shots}-shot %", f"probe/{data}/{shots}shot", 100, 1) for data, shots in found]


def value_cell(mean: Mean | None, column: Column, seeds: int) -> str:
    """ "87.3 ± 0.4", with "(n)" where fewer seeds have the figure than the row has."""
    if mean is None:
        return MISSING
    text = _number(mean.mean * column.scale, column)
    if mean.std and column.decimals is not None:  # the spread of a price says nothing about a router
        text += f" ± {mean.std * column.scale:.{column.decimals}f}"
    return text if mean.n == seeds else f"{text} ({mean.n})"


def _number(value: float, column: Column) -> str:
    return significant(value) if column.decimals is None else f"{value:.{column.decimals}f}"


def result_notes(runs: list[Run]) -> list[str]:
    """What a reader must know to compare: the raw-pixel floors, and on what the price was measured."""
    notes = []
    for column in probe_columns(runs):
        floors = [value for run in runs if (value := run.number(f"{column.figure}/floor")) is not None]
        if floors:
            notes.append(f"{column.heading.removesuffix(' %')}: raw pixels reach {100 * max(floors):.1f} %.")
    devices = Counter(_device(run) for run in runs)
    if len(devices) > 1:
        listed = ", ".join(f"{device} ({n} run{'s' * (n > 1)})" for device, n in devices.most_common())
        notes.append(f"Device-days and img/s are not comparable across rows: measured on {listed}.")
    elif runs:
        notes.append(f"Device-days and img/s measured on {next(iter(devices))}.")
    return notes


def _device(run: Run) -> str:
    summary = run.summary or {}
    world = summary.get("world_size") or 1
    return f"{world} × {summary.get('device', 'an unknown device')}"


def unfinished_notes(runs: list[Run]) -> list[str]:
    """One line for each run that is in no mean, and why."""
    return [f"Not counted: {run.name} – {describe_state(run)}" for run in runs]


def describe_state(run: Run) -> str:
    """ "diverged at step 120 of 600: loss is nan …"."""
    words = run.state
    if run.step is not None and run.state not in ("queued", "finished"):
        words += f" at step {run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
    return f"{words}: {run.reason.rstrip('.')}" if run.reason else words
