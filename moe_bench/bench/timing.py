"""The measuring core: named calls, timed in interleaved rounds. Pure Python.

A machine's speed drifts while one measures: clocks, neighbours, memory. So no call is timed by itself a hundred times
over. A round times every call once, in an order drawn anew, and calls are compared within a round: the drift is in both
sides of such a ratio. What is told of a ratio is its median over the rounds and its quartiles.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WARMUP = 2
"""Rounds that do not count."""

Call = Callable[[], Any]
Round = Mapping[str, float]
"""Name of a call → the seconds it took."""


def stopwatch(call: Call) -> float:
    """Seconds that ``call`` takes. What it returns is let go after the clock has stopped."""
    started = time.perf_counter()
    kept = call()
    seconds = time.perf_counter() - started
    del kept
    return seconds


def timed_rounds(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    warmup: int = WARMUP,
    clock: Callable[[Call], float] = stopwatch,
    between: Callable[[str], None] = lambda name: None,
) -> Iterator[Round]:
    """Yields ``rounds`` rounds, each as soon as it is complete, after ``warmup`` rounds that do not count.

    ``between`` gets the name of each call after it, outside its time. Orders are the same in every run. Nothing is
    collected as garbage within a round.
    """
    shuffle = random.Random(0)
    gc.collect()
    order = list(calls)
    for number in range(-warmup, rounds):
        shuffle.shuffle(order)
        seconds = {}
        with no_garbage_collection():
            for name in order:
                seconds[name] = clock(calls[name])
                between(name)
        if number >= 0:
            yield seconds


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Python's collector waits until the end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class Spread:
    """The median of some values and their quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more; quartiles interpolate between values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3)


def seconds(rounds: Sequence[Round], name: str) -> Spread:
    """Of one call."""
    return Spread.of([each[name] for each in rounds])


def ratio(rounds: Sequence[Round], name: str, base: str) -> Spread:
    """Of one call's seconds over another's in the same round."""
    return Spread.of([each[name] / each[base] for each in rounds])
