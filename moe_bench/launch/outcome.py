"""What became of the cells of a sweep, and why."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moe_bench.errors import EXIT_SIGINT, EXIT_SIGTERM, MoeBenchError
from moe_bench.launch.cells import Cell
from moe_bench.monitor.atomic import read_json
from moe_bench.monitor.folder import RunFolder

MEANING = {
    0: "finished",
    1: "a bug",
    2: "configuration",
    3: "data",
    4: "checkpoint or run folder",
    5: "diverged",
    6: "run folder in use",
    7: "a worker was lost",
    9: "refused for safety",
    EXIT_SIGINT: "interrupted",
    EXIT_SIGTERM: "terminated",
}
"""What an exit code says of a cell."""

TAIL = 4096  # bytes at the end of a log, among which its last line is


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; ``code`` is None if it never started, and negative if a signal killed it."""

    cell: Cell
    code: int | None
    reason: str = ""
    log: Path | None = None  # what it printed, where that is not on the screen
    limit: str = ""  # the setting whose time limit it reached
    skipped: bool = False  # finished before

    @property
    def state(self) -> str:
        if self.code is None:
            return "not started"
        if self.skipped:
            return "finished before"
        if self.limit and self.code != 0:
            return "killed at the time limit" if self.code < 0 else "stopped at the time limit"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.code in (0, EXIT_SIGINT, EXIT_SIGTERM):
            return MEANING[self.code]
        return f"failed: {MEANING.get(self.code, 'unknown reason')}"


def after(cell: Cell, code: int, pid: int, started: str, log: Path | None, limit: str) -> Outcome:
    """The outcome of a cell whose first process ``pid`` ended with ``code``. A run that could not say why is told of.

    ``started`` is a time as ``monitor.lock.now`` writes it: what status.json says of an earlier attempt is no reason.
    """
    if code in (-signal.SIGINT, -signal.SIGTERM):  # before it had its own answer to signals
        code = 128 - code
    reason = ""
    if code < 0:
        reason = _killed(cell, code, pid, limit)
    elif code > 0:
        status = read_json(cell.folder / "status.json") or {}
        of_now = status.get("exit_code") == code and str(status.get("ended")) >= started
        reason = str(status.get("reason")) if of_now else _last_line(log)
    return Outcome(cell, code, reason, log, limit)


def _killed(cell: Cell, code: int, pid: int, limit: str) -> str:
    status = read_json(cell.folder / "status.json") or {}
    step = f" at step {status['step']:,}" if status.get("pid") == pid and isinstance(status.get("step"), int) else ""
    why = ", most often because memory ran out" if code == -signal.SIGKILL else ""
    why = f", since it did not stop at its time limit ({limit})" if limit else why
    reason = f"killed by {signal.Signals(-code).name}{step}{why}"
    with suppress(MoeBenchError):  # a folder that cannot be written
        RunFolder(cell.folder).settle(pid, 128 - code, reason)
    return reason


def _last_line(log: Path | None) -> str:
    if log is None:
        return ""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def table(outcomes: Sequence[Outcome]) -> str:
    """One line for each cell: what it was, how it ended, its exit code, where its folder is."""
    rows = [("run", "state", "exit", "folder")]
    rows += [(o.cell.label, o.state, "–" if o.code is None else str(o.code), str(o.cell.folder)) for o in outcomes]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]) for row in rows)
    return "\n" + "\n".join(lines)


def failures(failed: Sequence[Outcome]) -> str:
    """For each cell that failed: why, and where to read more."""
    return "\n".join(line for outcome in failed for line in _failure(outcome))


def _failure(outcome: Outcome) -> list[str]:
    lines = [f"\n[{outcome.cell.number}] {outcome.cell.label}: {outcome.state}"]
    if outcome.limit:
        lines.append(f"    {outcome.limit} is over; the same command again goes on from the last checkpoint")
    if outcome.reason:
        lines.append(f"    {outcome.reason}")
    traces = [path for path in (outcome.cell.folder / "error.log", outcome.log) if path is not None and path.exists()]
    return [*lines, *(f"    {path}" for path in traces)]
