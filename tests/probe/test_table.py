from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from moe_bench.probe.cli import fewer_shots, table
from moe_bench.probe.score import Protocol, Score


def lines(protocol: Protocol) -> list[str]:
    score, floor = (Score("birds", 10, accuracy, 0.004, 1024.0, protocol) for accuracy in (0.5, 0.25))
    return table([score], [floor], protocol, step=7).splitlines()


def test_a_score_has_a_spread_only_where_there_are_draws_for_one() -> None:
    assert lines(Protocol(draws=3))[1].split() == ["birds", "10", "50.0", "±", "0.4", "%", "25.0", "%", "1024"]
    assert lines(Protocol(draws=1))[1].split() == ["birds", "10", "50.0", "%", "25.0", "%", "1024"]


def test_more_shots_than_a_class_has_are_said_to_be_fewer() -> None:
    labels = np.array([[0], [0], [0], [2], [2]])
    birds: Any = SimpleNamespace(name="birds", train=SimpleNamespace(labels=labels))
    assert fewer_shots([birds], Protocol(shots=(1, 2))) == []
    (told,) = fewer_shots([birds], Protocol(shots=(1, 3)))
    assert told == "birds: a class with fewer pictures than shots gave all it has, the smallest 2 pictures"
