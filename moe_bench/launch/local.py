"""A sweep on this machine: each cell is a fresh ``python -m moe_bench`` with its own overrides, ``jobs`` at a time.

A cell that crashes, leaks, hangs or is killed never touches the next. The first SIGINT, SIGTERM or SIGHUP is passed on
to the running cells, which stop at a step boundary, and no further cell starts; a second kills them. Each cell is a
session of its own, so that a signal reaches it once and through here, and nothing of it outlives it. Killed itself, the
sweep leaves no cell behind either (see parent.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from moe_bench import parent
from moe_bench.config.launchers import LocalLauncher
from moe_bench.errors import EXIT_SIGINT, EXIT_SIGTERM, SweepError
from moe_bench.launch.cells import Cell
from moe_bench.launch.outcome import Outcome, after, failures, table
from moe_bench.launch.share import shares
from moe_bench.monitor.atomic import FOLDER_MODE
from moe_bench.monitor.lock import now
from moe_bench.monitor.summary import next_lines
from moe_bench.monitor.units import duration
from moe_bench.onward import the_table
from moe_bench.secrets import redact

POLL_S = 0.05


class Running:
    """One cell while it runs. ``log`` is where it prints to; None: where this process does."""

    def __init__(self, cell: Cell, slot: int, environment: dict[str, str], log: Path | None) -> None:
        self.cell, self.slot, self.log = cell, slot, log
        self.started, self._began = now(), time.monotonic()
        self.stopping_since: float | None = None  # when it reached its time limit
        out = None if log is None else _open_log(log, self.started)
        theirs, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                cell.command,
                env={**os.environ, **environment, parent.VARIABLE: str(theirs), parent.CELL: "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=None if out is None else subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[theirs],
            )
        finally:
            os.close(theirs)
            if out is not None:
                os.close(out)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def ask(self, number: int) -> None:
        """Signal the first process of the cell, which tells its others. A terminal that closed asks it to stop."""
        self._process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def kill(self) -> None:
        """End whatever there is of it."""
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: of a zombie, on macOS
            os.killpg(self.pid, signal.SIGKILL)

    def limit(self, seconds: float) -> None:
        """Ask it to stop once it has run for so long, and kill it if it does not."""
        if self.stopping_since is None and self.seconds > seconds:
            self.stopping_since = time.monotonic()
            self.ask(signal.SIGTERM)
        elif self.stopping_since is not None and time.monotonic() - self.stopping_since > parent.GRACE_S:
            self.kill()

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs. What it left behind is killed."""
        code = self._process.poll()
        if code is not None:
            self.kill()
            os.close(self._pipe)
        return code


class Pool:
    """Runs cells, at most as many at once as it has slots, and keeps what became of each."""

    def __init__(self, launcher: LocalLauncher, slots: Sequence[dict[str, str]], total: int) -> None:
        self.received: int | None = None  # the first signal
        self._limit_s = None if launcher.timeout_min is None else 60 * launcher.timeout_min
        self._slots, self._total = slots, total
        self._free = deque(range(len(slots)))
        self._running: list[Running] = []
        self._outcomes: list[Outcome] = []

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """The first signal is passed on, any later one kills."""
        for running in self._running:
            if self.received is None:
                running.ask(number)
            else:
                running.kill()
        self.received = self.received or number

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Until all have ended, or until those that run have ended after a signal."""
        waiting = deque(cells)
        try:
            while self._running or (waiting and self.received is None):
                while waiting and self._free and self.received is None:
                    self._start(waiting.popleft())
                time.sleep(POLL_S)
                for running in list(self._running):
                    self._look_after(running)
        finally:
            for running in self._running:
                running.kill()
        return [*self._outcomes, *(Outcome(cell, None) for cell in waiting)]

    def _start(self, cell: Cell) -> None:
        slot = self._free.popleft()
        log = cell.beside(".log") if len(self._slots) > 1 else None
        say(f"[{cell.number}/{self._total}] {cell.label}" + (f": started; it prints to {log}" if log else ""))
        running = Running(cell, slot, self._slots[slot], log)
        self._running.append(running)
        if self.received is not None:  # while it was being started
            running.ask(self.received)

    def _look_after(self, running: Running) -> None:
        code = running.ended()
        if code is None:
            if self._limit_s is not None:
                running.limit(self._limit_s)
            return
        self._running.remove(running)
        self._free.append(running.slot)
        outcome = after(running.cell, code, running.pid, running.started, running.log, self._reached_limit(running))
        self._outcomes.append(outcome)
        if running.log is not None:
            left = self._total - len(self._outcomes)
            told = f"{outcome.state} after {duration(running.seconds)}; {left} to go"
            say(f"[{running.cell.number}/{self._total}] {running.cell.label}: {told}")

    def _reached_limit(self, running: Running) -> str:
        if running.stopping_since is None or self._limit_s is None:
            return ""
        return f"hydra.launcher.timeout_min={self._limit_s / 60:g}"


def run(cells: Sequence[Cell], launcher: LocalLauncher) -> int:
    """Run what is not finished, print what became of each cell, and return the exit code for the whole.

    Raises:
        SweepError: if a cell failed.
    """
    done = [Outcome(cell, 0, skipped=True) for cell in cells if cell.finished]
    left = [cell for cell in cells if not cell.finished]
    jobs = max(1, min(launcher.jobs, len(left)))
    pool = Pool(launcher, shares(jobs, [cell.config for cell in left]), len(cells))
    with _passed_on(pool):
        outcomes = sorted([*done, *pool.run(left)], key=lambda outcome: outcome.cell.number)
    say(table(outcomes))
    if pool.received is not None:
        return EXIT_SIGINT if pool.received == signal.SIGINT else EXIT_SIGTERM
    failed = [outcome for outcome in outcomes if outcome.code != 0]
    if failed:
        say(failures(failed))
        raise SweepError(f"{len(failed)} of {len(cells)} runs failed; the same command again does only what is missing")
    places = dict.fromkeys(cell.config.runs_dir for cell in cells)
    say("\n".join(line.plain for line in next_lines([the_table(place) for place in places])))
    return 0


@contextmanager
def _passed_on(pool: Pool) -> Iterator[None]:
    """While open, signals go to the running cells instead of ending this process."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup a terminal that closes ends nothing
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, pool.signalled) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """Print, where somebody still reads: a sweep goes on without its terminal."""
    with suppress(OSError):
        print(redact(text), flush=True)


def _open_log(path: Path, started: str) -> int:
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"--- {started}\n".encode())
    return descriptor
