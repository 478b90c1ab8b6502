"""The measuring core, on a clock that tells exactly what the calls cost."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from moe_bench.bench.timing import Spread, ratio, seconds, stopwatch, timed_rounds


class Machine:
    """A clock whose calls return what they cost, on a machine that slows down with every call."""

    def __init__(self, slowdown: float = 0.0) -> None:
        self.calls: list[str] = []
        self.slowdown = slowdown

    def call(self, name: str, cost: float) -> Callable[[], float]:
        def run() -> float:
            self.calls.append(name)
            return cost

        return run

    def clock(self, call: Callable[[], Any]) -> float:
        return float(call()) * (1 + self.slowdown * len(self.calls))


def test_every_round_times_every_call_once_and_warm_up_does_not_count() -> None:
    machine = Machine()
    calls = {name: machine.call(name, cost) for name, cost in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    rounds = list(timed_rounds(calls, 5, warmup=2, clock=machine.clock))
    assert rounds == [{"a": 1.0, "b": 2.0, "c": 3.0}] * 5
    blocks = [machine.calls[i : i + 3] for i in range(0, 21, 3)]
    assert len(machine.calls) == 21
    assert all(sorted(block) == ["a", "b", "c"] for block in blocks)
    assert len({tuple(block) for block in blocks}) > 1, "no call always follows the same other"


def test_a_machine_that_slows_down_moves_times_more_than_ratios() -> None:
    machine = Machine(slowdown=0.05)
    calls = {"layer": machine.call("layer", 3.0), "floor": machine.call("floor", 2.0)}
    rounds = list(timed_rounds(calls, 40, clock=machine.clock))
    found, times = ratio(rounds, "layer", "floor"), seconds(rounds, "layer")
    assert found.median == pytest.approx(1.5, rel=0.02)
    assert times.q3 / times.q1 > 1.3


def test_what_happens_between_calls_is_told_the_name_and_is_not_timed() -> None:
    machine = Machine()
    told: list[str] = []
    calls = {"a": machine.call("a", 1.0), "b": machine.call("b", 1.0)}
    list(timed_rounds(calls, 2, warmup=0, clock=machine.clock, between=told.append))
    assert told == machine.calls


def test_rounds_come_as_soon_as_they_are_complete() -> None:
    """So that Ctrl-C loses no more than the round it falls into."""
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    rounds = timed_rounds({"a": call, "b": lambda: None}, 10, warmup=2)
    assert len([next(rounds) for _ in range(3)]) == 3
    with pytest.raises(KeyboardInterrupt):
        next(rounds)
    assert gc.isenabled()


def test_nothing_is_collected_as_garbage_within_a_round() -> None:
    states = []
    list(timed_rounds({"a": lambda: states.append(gc.isenabled())}, 2, warmup=1))
    assert states == [False] * 3
    assert gc.isenabled()


def test_the_stopwatch_measures_at_least_a_sleep() -> None:
    assert stopwatch(lambda: time.sleep(0.02)) >= 0.02


def test_letting_the_result_go_is_not_timed() -> None:
    class Slow:
        def __del__(self) -> None:
            time.sleep(0.2)

    assert stopwatch(Slow) < 0.2


def test_quartiles_are_those_of_the_values() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() -> None:
    rounds = [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 4.0}, {"a": 9.0, "b": 3.0}]
    assert ratio(rounds, "a", "b").median == 1.0
    assert seconds(rounds, "a").median / seconds(rounds, "b").median == pytest.approx(2 / 3)
