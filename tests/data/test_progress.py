from __future__ import annotations

import time

import pytest

from moe_bench.data.progress import progress


def test_lines_tell_what_is_done_and_how_long_the_rest_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress("layers", 100.0, "GFLOP") as advance:
        for clock[0], amount in ((50.0, 10.0), (56.0, 10.0), (62.0, 20.0), (200.0, 60.0)):
            advance(amount)
    # The first part took 50 s, most of it for what is done but once; the second takes 6 s.
    assert capsys.readouterr().err.splitlines() == [
        "layers: 20 of 100 GFLOP, 0:00:48 left",
        "layers: 100 of 100 GFLOP",
    ]


def test_nothing_is_said_where_nobody_wants_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading shards", 1, "shards", show=False) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
