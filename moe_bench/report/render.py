"""Tables for a terminal. What a run or a file is called can do no harm there: it is text, never markup."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

from moe_bench.report.tables import Table

GAP = "  "


def terminal(table: Table, columns: int) -> list[Text]:
    """Lines for a terminal of so many columns: figures that can be spared are left out, and the last note says so."""
    texts, widths = table.texts, _widths(table)
    shown, spare = list(range(len(widths))), list(table.spare)
    while spare and _total(widths, shown) > columns:
        shown.remove(spare.pop(0))

    def line(cells: Sequence[str]) -> str:
        """Words to the left, figures to the right."""
        aligned = [cells[i].ljust(widths[i]) if i < table.labels else cells[i].rjust(widths[i]) for i in shown]
        return GAP.join(aligned).rstrip()

    lines = [
        Text(table.title, style="bold"),
        *(Text(line(cells), style="dim") for cells in _headings(table, widths, shown)),
    ]
    lines.append(Text("─" * _total(widths, shown), style="dim"))
    for number, row in enumerate(texts):
        lines += [Text("")] if number in table.breaks else []
        lines.append(Text(line(row)))
    lines += [Text(""), *(Text(note, style="dim") for note in table.notes)]
    if left_out := [heading for i, heading in enumerate(table.headings) if i not in shown]:
        lines.append(Text(f"Left out for width: {', '.join(left_out)}. report.md has them.", style="dim"))
    return lines


def _headings(table: Table, widths: Sequence[int], shown: Sequence[int]) -> list[list[str]]:
    """Headings broken at spaces into lines of cells, standing on their columns."""
    words = {i: textwrap.wrap(table.headings[i], max(1, widths[i])) for i in shown}
    height = max(map(len, words.values()))
    lines = [[""] * len(widths) for _ in range(height)]
    for i, found in words.items():
        for level, word in enumerate(found, height - len(found)):
            lines[level][i] = word
    return lines


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[i] + len(GAP) for i in shown) - len(GAP)


def _widths(table: Table) -> list[int]:
    texts = table.texts
    return [
        max(len(text) for text in [*heading.split(), *(row[i] for row in texts)])
        for i, heading in enumerate(table.headings)
    ]
