"""Tables as CSV: every mean with its 95 % interval, standard deviation and number of seeds in columns of their own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress

from moe_bench.monitor.units import MISSING
from moe_bench.report.groups import Mean, Section
from moe_bench.report.price import CPU_DAYS, DEVICE_DAYS
from moe_bench.report.tables import (
    INTERVAL,
    PRICE,
    UPSTREAM,
    Cell,
    Table,
    Value,
    capacity_text,
    cost_column,
    probe_columns,
)

PARTS = ("mean", "95 % CI ±", "std", "n")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def all_rows(sections: Sequence[Section]) -> str:
    """One row for each row of each section, all figures in their unit."""
    columns = [
        UPSTREAM,
        *probe_columns(run for section in sections for row in section.rows for run in row.runs),
        *map(cost_column, (DEVICE_DAYS, CPU_DAYS)),
        *PRICE,
    ]
    lines = [["section", "model", "capacity", "router", "settings", "seeds", *_expanded(c.heading for c in columns)]]
    for section in sections:
        for row in section.rows:
            labels = [section.title, row.model, capacity_text(row.capacity), row.router, row.variant, str(row.seeds)]
            means = [(row.mean(column.figure), column.scale) for column in columns]
            figures = [text for mean, scale in means for text in _figures(mean, scale)]
            lines.append([*map(_inert, labels), *figures])
    return _text(lines)


def one_table(table: Table) -> str:
    """The table as printed, but for figures, which are spread over columns."""
    spread = [any(isinstance(row[i], Value) for row in table.rows) for i in range(len(table.headings))]
    headings = [
        text
        for name, wide in zip(table.headings, spread)
        for text in (_expanded([name.removesuffix(INTERVAL)]) if wide else [_inert(name)])
    ]
    rows = [[text for cell, wide in zip(row, spread) for text in _cells(cell, wide)] for row in table.rows]
    return _text([headings, *rows])


def _cells(cell: Cell, wide: bool) -> list[str]:
    if isinstance(cell, Value):
        return _figures(cell.mean, cell.scale)
    text = "" if cell == MISSING else _inert(cell)
    return [text, "", "", "0"] if wide else [text]


def _expanded(headings: Iterable[str]) -> list[str]:
    return [_inert(f"{heading} {part}") for heading in headings for part in PARTS]


def _figures(mean: Mean | None, scale: float) -> list[str]:
    if mean is None:
        return ["", "", "", "0"]
    spread = ["" if value is None else f"{value * scale:.6g}" for value in (mean.half, mean.std)]
    return [f"{mean.mean * scale:.6g}", *spread, str(mean.n)]


def _text(lines: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    with suppress(ValueError):
        float(text)
        return text
    return f"'{text}" if text.startswith(_FORMULA) else text
