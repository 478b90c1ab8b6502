"""A page as Markdown. What a run or a file is called can do no harm: all of it is text."""

from __future__ import annotations

import re

from moe_bench.report.page import Figure, Heading, Page, Part, Text
from moe_bench.report.tables import Table

_SPECIAL = re.compile(r"([\\|`*\[\]])")
_BLOCK = re.compile(r"^(?=[#+=-])|(?<=^\d)(?=[.)])")


def markdown(page: Page) -> str:
    """Figures are links to ``figures/NAME.png``."""
    return "\n\n".join([f"# {escape(page.title)}", *map(_part, page.parts)]) + "\n"


def _part(part: Part) -> str:
    match part:
        case Heading():
            return f"{'#' * part.level} {escape(part.text)}"
        case Text():
            return _paragraph(part.text)
        case Figure():
            link = f"![{escape(part.alt)}](figures/{part.name}.png)"
            return "\n\n".join([f"### {escape(part.title)}", link, _paragraph(part.caption)])
        case Table():
            notes = "\n".join(f"- {escape(note)}" for note in part.notes)
            return "\n\n".join(filter(None, [f"### {escape(part.title)}", _table(part), notes]))


def _table(table: Table) -> str:
    rule = ["---" if i < table.labels else "--:" for i in range(len(table.headings))]
    lines = [map(escape, table.headings), rule, *(map(escape, row) for row in table.texts)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraph(text: str) -> str:
    """Not a heading, a list or a rule, whatever it begins with."""
    return _BLOCK.sub(r"\\", escape(text))


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)
