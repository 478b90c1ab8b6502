"""A title and facts under it, as the header and the summary of a run show them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich.text import Text

WIDEST = 100  # columns; longer lines are hard to read
GAP = "  "

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[A-Za-z%])")


def block(title: str, facts: Sequence[tuple[str, str]], columns: int) -> list[Text]:
    """A rule with the title in it, then each (label, words), the words wrapped beside their label.

    A word longer than its column, such as a path, is left whole so that it can be copied.
    """
    width = min(columns, WIDEST)
    lines = [Text.assemble((f"{title} ", "bold"), ("─" * max(0, width - len(title) - 1), "dim"))]
    indent = max(len(label) for label, _ in facts) + len(GAP)
    for label, words in facts:
        kept = _BEFORE_UNIT.sub("\xa0", words)  # a number and its unit stay on one line
        parts = textwrap.wrap(kept, max(20, width - indent), break_long_words=False, break_on_hyphens=False)
        for number, part in enumerate(parts):
            shown = label if number == 0 else ""
            lines.append(Text.assemble((shown.ljust(indent), "dim"), part.replace("\xa0", " ")))
    return lines
