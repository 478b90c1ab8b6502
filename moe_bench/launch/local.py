"""A sweep on this machine: each cell is a fresh ``python -m moe_bench`` with its own overrides, one after the other.

A cell that crashes, leaks or is killed never touches the next. The first SIGINT or SIGTERM is passed on to the running
cell, which stops at a step boundary, and no further cell starts; a second kills it. Each cell is a session of its own,
so that a signal reaches it once and through here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from moe_bench import config
from moe_bench.config.sweep import Plan
from moe_bench.errors import EXIT_SIGINT, EXIT_SIGTERM, ConfigError, SweepError
from moe_bench.launch.python import this_program

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


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; ``code`` is None if it never started."""

    label: str
    code: int | None
    folder: str

    @property
    def state(self) -> str:
        if self.code is None:
            return "not started"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.code in (0, EXIT_SIGINT, EXIT_SIGTERM):
            return MEANING[self.code]
        return f"failed: {MEANING.get(self.code, 'unknown reason')}"


class Relay:
    """Passes signals on to the running cell: the first as it is, any later one as SIGKILL."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.cell: subprocess.Popen[bytes] | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.cell is not None and self.cell.poll() is None:
            os.killpg(self.cell.pid, signal.SIGKILL if self.received else number)
        self.received = number

    def run(self, command: Sequence[str]) -> int:
        """Run one cell to its end and return its exit code, negative if a signal killed it."""
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as self.cell:
            code = self.cell.wait()
        self.cell = None
        return code


def run(plan: Plan, config_dir: str | None = None) -> int:
    """Run all cells of a plan, print what became of each, and return the exit code for the whole.

    Raises:
        SweepError: if a cell failed.
    """
    outcomes = []
    if plan.repeated:
        print(f"{plan.repeated} of {plan.repeated + len(plan.cells)} runs would repeat another one, and are left out")
    with relayed_signals() as relay:
        for number, cell in enumerate(plan.cells, 1):
            label = " ".join(line for line in cell if _key(line) in plan.varying) or " ".join(cell)
            if not relay.received:
                print(f"\n[{number}/{len(plan.cells)}] {label}", flush=True)
            outcomes.append(_run_cell(plan, cell, label, config_dir, relay))
    print(table(outcomes), flush=True)
    if relay.received:
        return EXIT_SIGINT if relay.received == signal.SIGINT else EXIT_SIGTERM
    failed = sum(outcome.code != 0 for outcome in outcomes)
    if failed:
        raise SweepError(f"{failed} of {len(outcomes)} runs failed; the same command again does only what is missing")
    return 0


def _run_cell(plan: Plan, cell: Sequence[str], label: str, config_dir: str | None, relay: Relay) -> Outcome:
    try:
        cfg = config.load(cell, config_dir)
    except ConfigError as error:  # a large grid is not checked cell by cell beforehand
        print(error, file=sys.stderr)
        return Outcome(label, error.exit_code, "–")
    folder = str(Path(cfg.runs_dir) / config.run_id(cfg))
    return Outcome(label, None if relay.received else relay.run(command(plan, cell, config_dir)), folder)


def command(plan: Plan, cell: Sequence[str], config_dir: str | None) -> list[str]:
    """The command line of one cell."""
    flags = ["--run"] if plan.by_preset else []
    flags += ["--config-dir", config_dir] if config_dir else []
    return [*this_program(), *flags, *cell]


@contextmanager
def relayed_signals() -> Iterator[Relay]:
    """While open, SIGINT and SIGTERM go to the running cell instead of ending this process."""
    relay = Relay()
    before = {number: signal.signal(number, relay) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line for each cell: what it was, how it ended, its exit code, where its folder is."""
    rows = [("run", "state", "exit", "folder")]
    rows += [(o.label, o.state, "–" if o.code is None else str(o.code), o.folder) for o in outcomes]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]) for row in rows)
    return "\n" + "\n".join(lines)


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+~")
