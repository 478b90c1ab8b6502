"""A title and facts under it, as the header and the summary of a run show them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.text import Text

WIDEST = 100  # columns; longer lines are hard to read
GAP = "  "


def block(title: str, facts: Sequence[tuple[str, str]], columns: int) -> list[Text]:
    """A rule with the title in it, then each (label, words) with the words wrapped beside its label."""
    width = min(columns, WIDEST)
    rule = Text(f"{title} ", style="bold")
    rule.append("─" * max(0, width - len(rule)), style="not bold dim")
    return [rule, *pairs(facts, width, label_style="dim")]


def pairs(facts: Sequence[tuple[str, str]], width: int, *, label_style: str = "", words_style: str = "") -> list[Text]:
    """Two columns; a word longer than its column, such as a path, is left whole so that it can be copied."""
    indent = max((len(label) for label, _ in facts), default=0) + len(GAP)
    lines = []
    for label, words in facts:
        room = max(20, width - indent)
        wrapped = textwrap.wrap(words, room, break_long_words=False, break_on_hyphens=False) or [""]
        for number, part in enumerate(wrapped):
            line = Text(label.ljust(indent) if number == 0 else " " * indent, style=label_style)
            lines.append(line.append(part, style=words_style or "not dim"))
    return lines
