"""The states of a run, how it enters one, and what to do with a run that is there already. Plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moe_bench.errors import EXIT_SIGINT, EXIT_SIGTERM, DivergedError, MoeBenchError, Terminated

STATES = ("queued", "running", "finished", "failed", "diverged", "preempted", "interrupted")
BY_SIGNAL = {EXIT_SIGINT: "interrupted", EXIT_SIGTERM: "preempted"}


class Checkpoint(Protocol):
    """What is asked of a checkpoint: where it is, which step it holds, and how long the files of rows were then."""

    @property
    def path(self) -> Path: ...

    @property
    def step(self) -> int: ...

    @property
    def lengths(self) -> Mapping[str, int] | None: ...


@dataclass(frozen=True)
class Start:
    """What to do with a run folder. ``note`` is one line for a person."""

    action: str  # "start", "resume" or "skip"
    note: str
    attempt: int = 1
    checkpoint: Path | None = None  # to resume from
    step: int = 0  # of that checkpoint
    lengths: Mapping[str, int] | None = None  # bytes that each file of rows had then, by name; None: not known
    summary: dict[str, Any] | None = None  # of the finished run that is skipped


def skip(name: str, summary: dict[str, Any]) -> Start:
    return Start("skip", f"{name} is finished; skipped (force=true runs it again)", summary=summary)


def begin(old: dict[str, Any], checkpoint: Checkpoint | None, archived: Path | None) -> Start:
    """Start or resume, given the status of the earlier attempt and what there is to go on from."""
    attempt = int(old.get("attempt") or 0) + 1
    if archived is not None:
        return Start("start", f"starting over; the earlier run is kept in {archived.name}", attempt)
    ended = {"running": "was killed", "queued": "never began"}.get(old.get("state") or "", old.get("state"))
    before = f"; attempt {attempt - 1} {ended}" if ended else ""
    if checkpoint is None:
        return Start("start", f"starting{before}", attempt)
    note = f"resuming from step {checkpoint.step:,}{before}"
    return Start("resume", note, attempt, checkpoint.path, checkpoint.step, checkpoint.lengths)


def outcome(error: BaseException) -> tuple[str, int]:
    """(state, exit code) of a run that ``error`` ended."""
    if isinstance(error, KeyboardInterrupt):
        code = EXIT_SIGTERM if isinstance(error, Terminated) else EXIT_SIGINT
        return BY_SIGNAL[code], code
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    else:
        code = error.exit_code if isinstance(error, MoeBenchError) else 1
    return "diverged" if isinstance(error, DivergedError) else BY_SIGNAL.get(code, "failed"), code
