"""Tables for a terminal, as Markdown and as CSV. What a run or a file is called can do no harm in any of them."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Sequence

from rich.text import Text

from moe_bench.report.groups import Mean, Section
from moe_bench.report.tables import PRICE, Column, Table, probe_columns

GAP = "  "

_MARKDOWN = re.compile(r"([\\|`*\[\]])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def terminal(table: Table, columns: int) -> list[Text]:
    """Lines for a terminal of so many columns: figures that can be spared are left out, and the last note says so."""
    shown = list(range(len(table.headings)))
    spare = list(table.spare)
    while spare and sum(_width(table, i) + len(GAP) for i in shown) - len(GAP) > columns:
        shown.remove(spare.pop(0))
    lines = [Text(table.title, style="bold"), *(Text(line, style="dim") for line in _heading_lines(table, shown))]
    for number, row in enumerate(table.rows):
        if number in table.breaks:
            lines.append(Text(""))
        lines.append(Text(_line(table, shown, row)))
    lines += [Text(""), *(Text(note, style="dim") for note in table.notes)]
    if left_out := [heading for i, heading in enumerate(table.headings) if i not in shown]:
        lines.append(Text(f"Left out for width: {', '.join(left_out)}. report.md has them.", style="dim"))
    return lines


def _heading_lines(table: Table, shown: Sequence[int]) -> list[str]:
    """Headings broken at spaces, standing on their columns, and a rule."""
    words = [textwrap.wrap(heading, max(1, _width(table, i))) for i, heading in enumerate(table.headings)]
    height = max(len(words[i]) for i in shown)
    lines = [_line(table, shown, [([""] * (height - len(w)) + w)[level] for w in words]) for level in range(height)]
    return [*lines, "─" * (sum(_width(table, i) + len(GAP) for i in shown) - len(GAP))]


def _line(table: Table, shown: Sequence[int], cells: Sequence[str]) -> str:
    """Words to the left, figures to the right."""
    aligned = [
        cells[i].ljust(_width(table, i)) if i < table.labels else cells[i].rjust(_width(table, i)) for i in shown
    ]
    return GAP.join(aligned).rstrip()


def _width(table: Table, i: int) -> int:
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
