"""Signals: a flag first, an exit at once on the second, everything as before when the run is over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from moe_bench.errors import Interrupted
from moe_bench.training.stop import StopSignals, interrupted

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def exit_code_of(work: Callable[[], None]) -> int:
    """Of a forked child that does ``work``."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(77)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_only_sets_a_flag_until_it_is_asked_for(number: signal.Signals, code: int) -> None:
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), number)
        assert signals.received == number
        with pytest.raises(Interrupted, match=number.name) as caught:
            signals.check()
    assert caught.value.exit_code == code


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_exits_at_once(number: signal.Signals, code: int) -> None:
    def work() -> None:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), number)

    assert exit_code_of(work) == code


def test_the_first_signal_is_answered_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        assert "stopping after this step; a second signal leaves at once" in capfd.readouterr().err


def test_only_the_first_rank_answers(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        assert capfd.readouterr().err == ""


def test_who_stops_after_saving_says_what_is_saved_and_how_to_go_on() -> None:
    error = interrupted(signal.SIGINT, saved=1200)
    assert str(error) == "stopped by SIGINT; step 1,200 is saved, and the same command goes on from there"
    assert error.exit_code == 130


def test_a_forked_data_worker_ignores_what_its_parent_handles() -> None:
    with StopSignals() as signals:

        def work() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if signals.received is None else 1)

        assert exit_code_of(work) == 0


def test_the_handlers_from_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number, _ in CODES]
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # someone else takes one
        signals.install()
        assert [signal.getsignal(number) for number, _ in CODES] != before
    assert [signal.getsignal(number) for number, _ in CODES] == before


def test_an_error_that_a_signal_caused_counts_as_the_signal() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("a data worker was killed")

    with pytest.raises(Interrupted) as caught, StopSignals():
        work()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_without_a_signal_stays_itself() -> None:
    with pytest.raises(RuntimeError, match="by itself"), StopSignals():
        raise RuntimeError("by itself")


@pytest.mark.parametrize("passed_on_first", [True, False])
def test_a_signal_that_comes_both_directly_and_passed_on_is_one_signal(passed_on_first: bool) -> None:
    def work() -> None:
        with StopSignals() as signals:
            ways = [lambda: signals._hear(signal.SIGTERM), lambda: os.kill(os.getpid(), signal.SIGTERM)]
            for come in ways if passed_on_first else reversed(ways):
                come()
            os._exit(0 if signals.received is signal.SIGTERM else 1)

    assert exit_code_of(work) == 0


def test_a_second_signal_passed_on_exits_at_once() -> None:
    def work() -> None:
        with StopSignals() as signals:
            signals._hear(signal.SIGINT)
            signals._hear(signal.SIGTERM)

    assert exit_code_of(work) == 143
