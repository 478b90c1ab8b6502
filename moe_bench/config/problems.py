"""What is wrong with a configuration: collected in full, then told on one screen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_bench.errors import ConfigError, SecurityError


@dataclass(frozen=True)
class Problem:
    """One thing that cannot be: where, what (with the numbers), and what to type instead."""

    place: str  # an override as typed, or the dotted name of a setting
    what: str
    remedy: str = ""
    uses: tuple[str, ...] = ()  # the settings it was derived from: if one is itself wrong, this is not worth saying
    security: bool = False

    def __str__(self) -> str:
        text = f"{printable(self.place)}\n      {printable(self.what)}"
        return f"{text}\n      → {printable(self.remedy)}" if self.remedy else text


def printable(text: str) -> str:
    """The text without control characters, so that nothing typed or read can write over a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(show, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}: {show(v)}" for k, v in value.items()) + "}"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to ``word``, if any is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def raise_if_any(problems: list[Problem]) -> None:
    """Raise one error that lists every problem once, in order; nothing if there are none.

    Raises:
        SecurityError: if one of them is a refusal for safety.
        ConfigError: otherwise.
    """
    distinct = list(dict.fromkeys(problems))
    if not distinct:
        return
    count = f"{len(distinct)} problems" if len(distinct) > 1 else "1 problem"
    listing = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(distinct, 1))
    text = (
        f"cannot start: {count} in the configuration\n\n{listing}\n\nNothing was written. All options: moe-bench --help"
    )
    raise SecurityError(text) if any(p.security for p in distinct) else ConfigError(text)
