"""Sections as tables of text: router × model × capacity against accuracy and price, with units in every heading.

A table is plain strings; ``render`` makes it a terminal table, Markdown or CSV.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from moe_bench.monitor.units import MISSING, significant
from moe_bench.report.collect import Run
from moe_bench.report.groups import Mean, Row, Section
from moe_bench.report.price import DEVICE_DAYS, FLOPS, Price

INTERVAL = " ± 95 % CI"
"""Ends the heading of a column whose cells have a spread."""

PROBE = re.compile(r"probe/(?P<data>.+)/(?P<shots>\d+)shot")


@dataclass(frozen=True)
class Column:
    """A figure of the summary: its heading with unit, what it is multiplied by, and digits after the point."""

    heading: str
    figure: str
    scale: float = 1.0
    decimals: int | None = None  # None: three significant digits


@dataclass(frozen=True)
class Value:
    """A cell with the figure behind it: ``mean`` times ``scale`` is what ``text`` says."""

    text: str
    mean: Mean
    scale: float = 1.0

    def __str__(self) -> str:
        return self.text


Cell = str | Value


@dataclass(frozen=True)
class Table:
    """Cells, ready to be laid out. The first ``labels`` columns are words, the others figures."""

    title: str
    headings: list[str]
    rows: Sequence[Sequence[Cell]]
    notes: list[str] = field(default_factory=list)
    labels: int = 2
    breaks: list[int] = field(default_factory=list)  # row numbers before which a new block begins
    spare: list[int] = field(default_factory=list)  # columns that a narrow terminal leaves out, first to go first
    name: str = ""  # of its files; made from the title where there is none

    @property
    def texts(self) -> list[list[str]]:
        return [[str(cell) for cell in row] for row in self.rows]


PRICE = (
    Column("img/s", "cost/images_per_s"),
    Column("GFLOP/img", "flops/image", 1e-9),
    Column("params M", "params/total", 1e-6),
    Column("active M", "params/active", 1e-6),
)


UPSTREAM = Column("prec@1 %", "val/prec1", 100, 1)


def result_table(section: Section) -> Table:
    """One row a router, model and capacity: mean and 95 % interval over seeds. Gaps are –."""
    finished = [run for row in section.rows for run in row.runs]
    prices = [cost_column(section.price), *PRICE]
    columns = [UPSTREAM, *probe_columns(finished), *prices]
    by_column = [[value_cell(row.mean(column.figure), column, row.seeds) for row in section.rows] for column in columns]
    headings = ["model", "c", "router", "seeds", *map(heading, columns, by_column)]
    rows = [[*_labels(row), str(row.seeds or MISSING), *cells] for row, *cells in zip(section.rows, *by_column)]
    keys = [(row.model, row.capacity) for row in section.rows]
    breaks = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]]
    notes = [*floor_notes(finished), *device_notes(finished, section.price)]
    main = main_probes(finished)
    rest = [column for column in columns[1 : -len(prices)] if column not in main]
    spared = [*reversed(rest), *reversed(PRICE), *reversed(main), *prices[:1]]
    spare = [4 + columns.index(column) for column in spared]
    name = f"results {section.title}"
    return Table(section.title, headings, rows, notes, labels=3, breaks=breaks, spare=spare, name=name)


def cost_column(price: Price) -> Column:
    """Of CPU-days where runs compare by them, else of device-days, which FLOPs do not replace in a table."""
    shown = DEVICE_DAYS if price is FLOPS else price
    return Column(shown.unit, shown.figure, shown.scale)


def _labels(row: Row) -> list[str]:
    return [row.model, capacity_text(row.capacity), router_text(row)]


def capacity_text(capacity: float | None) -> str:
    return MISSING if capacity is None else f"{capacity:g}"


def router_text(row: Row) -> str:
    return f"{row.router} {row.variant}".strip()


def heading(column: Column, cells: Iterable[Cell]) -> str:
    """Says what stands after ±, where anything does."""
    return column.heading + (INTERVAL if any("±" in str(cell) for cell in cells) else "")


def probe_columns(runs: Iterable[Run]) -> list[Column]:
    """One column for each probe that any of ``runs`` has, by data set and shots."""
    names = {name for run in runs for name in run.summary or {}}
    found = sorted((m["data"], int(m["shots"])) for name in names if (m := PROBE.fullmatch(name)))
    return [Column(f"{data} {shots}-shot %", f"probe/{data}/{shots}shot", 100, 1) for data, shots in found]


def main_probes(runs: Iterable[Run]) -> list[Column]:
    """One for each data set: the ten shots of the paper, or the most there are."""
    found: dict[str, Column] = {}
    for column in probe_columns(runs):
        data = column.figure.rpartition("/")[0]
        if data not in found or not found[data].figure.endswith("/10shot"):
            found[data] = column
    return list(found.values())


def value_cell(mean: Mean | None, column: Column, seeds: int, sign: str = "") -> Cell:
    """ "87.3 ± 0.4", with "(n)" where fewer seeds have the figure than the row has; ``sign`` "+" for differences."""
    if mean is None:
        return MISSING
    text = _number(mean.mean * column.scale, column, sign)
    if mean.half is not None and column.decimals is not None:  # the spread of a price says nothing about a router
        text += f" ± {mean.half * column.scale:.{column.decimals}f}"
    return Value(text if mean.n == seeds else f"{text} ({mean.n})", mean, column.scale)


def _number(value: float, column: Column, sign: str) -> str:
    if column.decimals is None:
        return significant(value)
    return f"{round(value, column.decimals) + 0.0:{sign}.{column.decimals}f}"  # + 0.0: no minus before a zero


def floor_notes(runs: Sequence[Run], data: str | None = None) -> list[str]:
    """What each probe, or that on ``data``, gives without any training."""
    notes = []
    for column in probe_columns(runs):
        if data is not None and not column.figure.startswith(f"probe/{data}/"):
            continue
        floors = [value for run in runs if (value := run.number(f"{column.figure}/floor")) is not None]
        if floors:
            notes.append(f"{column.heading.removesuffix(' %')}: raw pixels reach {100 * max(floors):.1f} %.")
    return notes


def device_notes(runs: Iterable[Run], price: Price) -> list[str]:
    """On what the price was measured, and whether it can be compared."""
    devices = Counter(_device(run) for run in runs)
    if len(devices) > 1:
        listed = ", ".join(f"{device} ({n} run{'s' * (n > 1)})" for device, n in devices.most_common())
        return [f"Device-days and img/s are not comparable across rows: measured on {listed}."]
    return [
        f"{_capital(cost_column(price).heading)} and img/s measured on {device}. {price.note}".strip()
        for device in devices
    ]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _device(run: Run) -> str:
    summary = run.summary or {}
    world = summary.get("world_size") or 1
    return f"{world} × {summary.get('device', 'an unknown device')}"


def not_counted(runs: Sequence[Run]) -> Table:
    """One row for each run that is in no mean, and why."""
    rows = [[run.name, describe_state(run)] for run in runs]
    return Table("Runs that are in no mean", ["run", "state"], rows, name="not-counted")


def describe_state(run: Run) -> str:
    """ "diverged at step 120 of 600: loss is nan …"."""
    words = run.state
    if run.step is not None and run.state not in ("queued", "finished"):
        words += f" at step {run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
    return f"{words}: {run.reason.rstrip('.')}" if run.reason else words
