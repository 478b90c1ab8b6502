"""Tasks done by several processes at once: drawing takes most of a report's time, and no figure needs another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from moe_bench.cores import cores

MOST = 4
"""Processes, this one included: each comes to hold a copy of what it reads of the runs."""

BYTES = 2
"""Of a task's number on its way to whoever does the task."""

T = TypeVar("T")


class SideBySide(Generic[T]):
    """Begins with ``tasks`` in processes of their own; ``results`` takes part in them and waits for the rest.

    The processes are forks of this one, so that they have its runs without a copy; where forking is not safe, and where
    there is one core, ``results`` does everything. What a process leaves undone, because it was killed or because a
    task failed, is done by ``results``, so that an error is raised where the caller can see it.
    """

    def __init__(self, tasks: Sequence[Callable[[], T]], processes: int | None = None) -> None:
        if processes is None:
            processes = min(MOST, cores()) if sys.platform == "linux" else 1
        self._tasks = tasks
        self._numbers, sending = os.pipe()  # each is read by one process, which does that task
        os.write(sending, b"".join(i.to_bytes(BYTES, "big") for i in range(len(tasks))))
        os.close(sending)
        self._helpers = [self._helper() for _ in range(min(processes, len(tasks)) - 1)]

    def results(self) -> list[T]:
        """What the tasks returned, in their order."""
        done = {i: self._tasks[i]() for i in self._mine()}
        os.close(self._numbers)
        for helper, receiving in self._helpers:
            with contextlib.suppress(EOFError, OSError):  # killed
                done.update(receiving.recv())
            receiving.close()
            helper.join()
        return [done[i] if i in done else task() for i, task in enumerate(self._tasks)]

    def _mine(self) -> Iterator[int]:
        """Tasks for this process, one at a time: each goes to whoever is free first."""
        while number := os.read(self._numbers, BYTES):
            yield int.from_bytes(number, "big")

    def _helper(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("fork")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=self._help, args=(sending,), daemon=True)
        process.start()
        sending.close()
        return process, receiving

    def _help(self, sending: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        done = {}
        with contextlib.suppress(Exception):
            for i in self._mine():
                done[i] = self._tasks[i]()
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            sending.send(done)
