"""Saying how far a preparation is and how long it will take: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(label: str, total: float, unit: str, show: bool = True) -> Iterator[Callable[..., None]]:
    """Yields a function to call after each of ``total`` pieces of work, or with how many are done since the last call.

    What comes before the first call is in no estimate of the time that is left: it may be done but once. Writes to
    stderr, or not without ``show``.
    """
    if not show:
        yield lambda pieces=1: None
    elif sys.stderr.isatty():
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        yield _lines(label, total, unit)


@contextmanager
def _bar(label: str, total: float, unit: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda pieces=1: bar.advance(task, pieces)


def _lines(label: str, total: float, unit: str) -> Callable[..., None]:
    done, last = 0.0, time.monotonic()
    first: tuple[float, float] | None = None  # when the first call came, and what was done by then

    def advance(pieces: float = 1) -> None:
        nonlocal done, last, first
        done += pieces
        now = time.monotonic()
        first = first or (now, done)
        finished = done > total * (1 - 1e-9)  # pieces may be fractions
        if finished or (now - last > SECONDS_BETWEEN_LINES and done > first[1]):
            last = now
            left = timedelta(seconds=round((now - first[0]) / max(done - first[1], 1e-9) * (total - done)))
            told = "" if finished else f", {left} left"
            print(f"{label}: {done:,.0f} of {total:,.0f} {unit}{told}", file=sys.stderr, flush=True)

    return advance
