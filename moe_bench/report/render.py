"""Tables for a terminal, as Markdown and as CSV. What a run or a file is called can do no harm in any of them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from moe_bench.report.groups import Mean, Section
from moe_bench.report.tables import PRICE, Column, Table, probe_columns

_MARKDOWN = re.compile(r"([\\|`*\[\]])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def terminal(table: Table, console: Console) -> RenderableType:
    """At the console's width: columns that can be spared are left out, and the note says so."""
    shown = list(range(len(table.headings)))
    spare = list(table.spare)
    while spare and _width(table, shown) > console.width:
        shown.remove(spare.pop(0))
    notes = [*table.notes]
    if left_out := [h for i, h in enumerate(table.headings) if i not in shown]:
        notes.append(f"Left out for width: {', '.join(left_out)}; report.md and report.csv have them.")
    return Group(Text(table.title, style="bold"), _grid(table, shown), *(Text(note, style="dim") for note in notes))


def _grid(table: Table, shown: Sequence[int]) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="", show_edge=False)
    for i in shown:
        figure = i >= table.labels
        grid.add_column(Text(table.headings[i]), justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for number, row in enumerate(table.rows):
        grid.add_row(*(Text(row[i]) for i in shown), end_section=number + 1 in table.breaks)
    return grid


def _width(table: Table, shown: Sequence[int]) -> int:
    """Columns of text that the table needs; headings wrap at spaces."""
    return sum(_column_width(table, i) + 2 for i in shown)


def _column_width(table: Table, i: int) -> int:
    return max(len(text) for text in [*table.headings[i].split(), *(row[i] for row in table.rows)])


def markdown(title: str, tables: Sequence[Table], preface: Sequence[str] = ()) -> str:
    """A page: ``preface`` in paragraphs, then each table under a heading with its notes."""
    parts = [f"# {_escape(title)}", *map(_escape, preface)]
    for table in tables:
        parts += [f"## {_escape(table.title)}", _markdown_table(table)]
        if table.notes:
            parts.append("\n".join(f"- {_escape(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rule = ["---" if i < table.labels else "--:" for i in range(len(table.headings))]
    lines = [map(_escape, table.headings), rule, *(map(_escape, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", plain)


def csv_text(sections: Sequence[Section]) -> str:
    """One row for each row of each section; a mean, a standard deviation and a count for each figure, in its unit."""
    runs = [run for section in sections for row in section.rows for run in row.runs]
    columns = [Column("prec@1 %", "val/prec1", 100), *probe_columns(runs), *PRICE]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = [f"{column.heading} {part}" for column in columns for part in ("mean", "std", "n")]
    writer.writerow(["section", "model", "capacity", "router", "settings", "seeds", *figures])
    for section in sections:
        for row in section.rows:
            capacity = "" if row.capacity is None else f"{row.capacity:g}"
            labels = [section.title, row.model, capacity, row.router, row.variant, str(row.seeds)]
            means = [(row.mean(column.figure), column.scale) for column in columns]
            cells = [cell for mean, scale in means for cell in _csv_figures(mean, scale)]
            writer.writerow([*map(_inert, labels), *cells])
    return out.getvalue()


def _csv_figures(mean: Mean | None, scale: float) -> list[str]:
    if mean is None:
        return ["", "", "0"]
    std = "" if mean.std is None else f"{mean.std * scale:.6g}"
    return [f"{mean.mean * scale:.6g}", std, str(mean.n)]


def _inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
