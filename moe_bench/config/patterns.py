"""How many names a brace pattern stands for, counted without expanding it: ``{0..999999999}`` would fill the memory."""

from __future__ import annotations

import re

MOST_SHARDS = 1_000_000

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def count_shards(pattern: str) -> int:
    """The number of names, exact for patterns without nested braces and never too small for others."""
    count = 1
    for first, last, step in _RANGE.findall(pattern):
        count *= abs(int(last) - int(first)) // max(1, abs(int(step or 1))) + 1
    rest = _RANGE.sub("x", pattern)
    while _CHOICE.search(rest):
        for inner in _CHOICE.findall(rest):
            count *= inner.count(",") + 1
        rest = _CHOICE.sub("x", rest)
    return count
