from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from moe_bench.report.figures.side_by_side import SideBySide


def square(i: int) -> int:
    return i * i


@pytest.mark.parametrize("processes", [1, 2, 4, 9])
def test_results_come_in_the_order_of_the_tasks_whoever_did_them(processes: int) -> None:
    others = set(multiprocessing.active_children())  # a process of another test may not have ended yet
    begun = SideBySide([partial(square, i) for i in range(7)], processes)
    assert begun.results() == [0, 1, 4, 9, 16, 25, 36]
    assert set(multiprocessing.active_children()) <= others


def test_no_task_has_no_result() -> None:
    assert SideBySide[int]([], 2).results() == []


def test_others_work_while_this_process_does_something_else() -> None:
    begun = SideBySide([os.getpid] * 3, 2)
    time.sleep(0.5)
    assert os.getpid() not in begun.results()


def test_what_a_killed_helper_had_taken_is_done_here() -> None:
    def deadly() -> int:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return 5

    here = os.getpid()
    begun = SideBySide([partial(square, 2), deadly, partial(square, 3)], 2)
    time.sleep(0.5)
    assert begun.results() == [4, 5, 9]


def test_an_error_in_a_helper_is_raised_here() -> None:
    begun = SideBySide([partial(square, 2), partial(divmod, 1, 0)], 2)
    time.sleep(0.5)
    with pytest.raises(ZeroDivisionError):
        begun.results()


def test_large_results_do_not_block() -> None:
    begun = SideBySide([partial(bytes, 10_000_000)] * 4, 3)
    assert [len(one) for one in begun.results()] == [10_000_000] * 4
