"""Tables for a terminal. What a run or a file is called can do no harm there: it is text, never markup."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from rich.text import Text

from moe_bench.report.tables import Table

GAP = "  "
NARROWEST = 12  # letters of a column of words


def terminal(table: Table, columns: int) -> list[Text]:
    """Lines for a terminal of so many columns: figures that can be spared are left out, and the last note says so."""
    texts, widths = table.texts, _widths(table)
    shown, spare = list(range(len(widths))), list(table.spare)
    while spare and _total(widths, shown) > columns:
        shown.remove(spare.pop(0))

    widths = _narrowed(widths, shown[: table.labels], _total(widths, shown) - columns)

    def line(cells: Sequence[str]) -> str:
        """Words to the left, figures to the right."""
        aligned = [cells[i].ljust(widths[i]) if i < table.labels else cells[i].rjust(widths[i]) for i in shown]
        return GAP.join(aligned).rstrip()

    headings = _broken(table.headings, widths, shown)
    lines = [Text(table.title, style="bold"), *(Text(line(cells), style="dim") for cells in _lowered(headings))]
    lines.append(Text("─" * _total(widths, shown), style="dim"))
    for number, row in enumerate(texts):
        lines += [Text("")] if number in table.breaks else []
        lines += [Text(line(cells)) for cells in zip_longest(*_broken(row, widths, shown), fillvalue="")]
    lines += [Text(""), *(Text(note, style="dim") for note in table.notes)]
    if left_out := [heading for i, heading in enumerate(table.headings) if i not in shown]:
        lines.append(Text(f"Left out for width: {', '.join(left_out)}. report.md has them.", style="dim"))
    return lines


def _narrowed(widths: Sequence[int], labels: Sequence[int], excess: int) -> list[int]:
    """Where figures alone cannot be spared any more, the widest column of words takes several lines."""
    widest = max(labels, key=lambda i: widths[i])
    return [max(NARROWEST, width - excess) if i == widest and excess > 0 else width for i, width in enumerate(widths)]


def _broken(cells: Sequence[str], widths: Sequence[int], shown: Sequence[int]) -> list[list[str]]:
    """Each cell as lines, broken at spaces where it can be; nothing of what is not shown."""
    return [textwrap.wrap(cell, max(1, widths[i])) if i in shown else [] for i, cell in enumerate(cells)]


def _lowered(cells: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Lines of headings that stand on their columns."""
    height = max(map(len, cells))
    return list(zip(*([""] * (height - len(found)) + [*found] for found in cells)))


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[i] + len(GAP) for i in shown) - len(GAP)


def _widths(table: Table) -> list[int]:
    texts = table.texts
    return [
        max(len(text) for text in [*heading.split(), *(row[i] for row in texts)])
        for i, heading in enumerate(table.headings)
    ]
