"""Saying how far a preparation is and how long it will take: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(label: str, total: int, unit: str, show: bool = True) -> Iterator[Callable[..., None]]:
    """Yields a function to call after each of ``total`` pieces of work, or with how many are done since the last call.

    Writes to stderr, or not without ``show``.
    """
    if not show:
        yield lambda pieces=1: None
    elif sys.stderr.isatty():
        with _bar(label, total, unit) as advance:
            yield advance
    else:
        yield _lines(label, total, unit)


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda pieces=1: bar.advance(task, pieces)


def _lines(label: str, total: int, unit: str) -> Callable[..., None]:
    done = 0
    began = last = time.monotonic()

    def advance(pieces: int = 1) -> None:
        nonlocal done, last
        done += pieces
        now = time.monotonic()
        if done == total or now - last > SECONDS_BETWEEN_LINES:
            last = now
            left = timedelta(seconds=round((now - began) / done * (total - done)))
            told = f", {left} left" if done < total else ""
            print(f"{label}: {done:,} of {total:,} {unit}{told}", file=sys.stderr, flush=True)

    return advance
