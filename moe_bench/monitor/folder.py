"""The folder of one run: who may write it, whether to start, resume or skip, and its four JSON files.

    run.json       what was asked and where it ran          status.json    where it stands, with a heartbeat
    metrics.jsonl  one object a line                        summary.json   the result; its presence means finished

Every JSON file is replaced as a whole (``atomic``), starred out (``secrets``) and written by one process only (``lock``).
Imports no torch, so that a finished run is skipped at once.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from moe_bench.errors import (
    EXIT_SIGINT,
    EXIT_SIGTERM,
    CheckpointError,
    ConfigError,
    DivergedError,
    MoeBenchError,
)
from moe_bench.monitor.atomic import FOLDER_MODE, plain, read_json, write_json
from moe_bench.monitor.environment import host, snapshot
from moe_bench.monitor.lock import FolderLock, now
from moe_bench.monitor.rows import cut_after
from moe_bench.monitor.secrets import redact

STATES = ("queued", "running", "finished", "failed", "diverged", "preempted", "interrupted")
FindCheckpoint = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Start:
    """What to do with a run folder. ``note`` is one line for a person."""

    action: str  # "start", "resume" or "skip"
    note: str
    attempt: int = 1
    checkpoint: Path | None = None  # to resume from
    summary: dict[str, Any] | None = None  # of the finished run that is skipped


class RunFolder:
    """Use as a context: leaving it releases the lock, and an error on the way is written to status.json.

    ``writer`` is True on rank 0 only; on other ranks nothing is locked or written and ``open`` only looks.
    """

    def __init__(self, path: str | os.PathLike[str], writer: bool = True) -> None:
        self.path = Path(path)
        self.writer = writer
        self._lock: FolderLock | None = None
        self._status: dict[str, Any] = {}

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def status_json(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics_jsonl(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_json(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def routing(self) -> Path:
        return self.path / "routing"

    @property
    def error_log(self) -> Path:
        return self.path / "error.log"

    def open(
        self,
        record: dict[str, Any],
        *,
        resume: str = "auto",
        force: bool = False,
        find_checkpoint: FindCheckpoint | None = None,
    ) -> Start:
        """Take the folder and decide. ``record`` goes to run.json; its "science" must equal what is stored there.

        ``find_checkpoint`` maps checkpoints/ to the newest valid checkpoint; by default the newest by name.
        Raises RunInUseError (another process), ConfigError (other science, bad ``resume``), CheckpointError
        (``resume="must"`` without a checkpoint, or the file system refuses). None of them changes the folder.
        """
        force = force and self.writer  # rank 0 has archived the folder before other ranks look
        if not force and (finished := self._finished(record)):
            return finished
        if self.writer:
            self._take()
        try:
            return self._decide(record, resume, force, find_checkpoint or newest_checkpoint)
        except BaseException:
            self.close()
            raise

    def rewind(self, step: int) -> None:
        """Drop rows of metrics.jsonl and routing/ that an earlier attempt wrote beyond ``step``, and a torn last one."""
        if self.writer:
            for path in (self.metrics_jsonl, *sorted(self.routing.glob("*.jsonl"))):
                cut_after(path, step)

    def record(self, **fields: Any) -> None:
        """Add ``fields`` to run.json."""
        if self.writer:
            write_json(self.run_json, redact({**(read_json(self.run_json) or {}), **fields}))

    def update(self, **fields: Any) -> None:
        """Write ``fields`` and a fresh heartbeat to status.json. Raises CheckpointError if the folder is gone."""
        if not self.writer:
            return
        if not self.path.is_dir():
            raise CheckpointError(
                f"The run folder {self.path} was moved or deleted while the run was writing it. "
                "Put it back and type the same command again to go on from its last checkpoint."
            )
        self._status |= {**fields, "heartbeat": now()}
        write_json(self.status_json, redact(self._status))

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete. summary.json is written last."""
        if self.writer:
            self.update(state="finished", exit_code=0, reason=None, ended=now())
            write_json(self.summary_json, redact(summary))

    def fail(self, error: BaseException) -> None:
        """Write why the run ended early; the traceback goes to error.log."""
        if not self.writer or not self.path.is_dir():
            return
        text = "".join(traceback.format_exception(error))
        self.error_log.write_text(redact(text), encoding="utf-8")
        state, code = outcome(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        self.update(state=state, exit_code=code, reason=reason, error=type(error).__name__, ended=now())

    def close(self) -> None:
        """Release the folder. Safe to call twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._lock is not None and self._status.get("state") == "running":
                self.fail(error)
        finally:
            self.close()

    def _finished(self, record: dict[str, Any]) -> Start | None:
        summary = read_json(self.summary_json)
        if summary is None:
            return None
        self._check_science(record)
        return Start("skip", f"{self.path.name} is finished; skipped (force=true runs it again)", summary=summary)

    def _take(self) -> None:
        try:
            self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"Cannot make the run folder {self.path}: {error.strerror or error}.") from error
        lock = FolderLock(self.path)
        lock.acquire(read_json(self.status_json))
        self._lock = lock

    def _decide(self, record: dict[str, Any], resume: str, force: bool, find_checkpoint: FindCheckpoint) -> Start:
        if not force:
            self._check_science(record)
            if finished := self._finished(record):  # by the process that held the lock until now
                self.close()
                return finished
        old = read_json(self.status_json) or {}
        checkpoint = None if force or not self.checkpoints.is_dir() else find_checkpoint(self.checkpoints)
        if resume == "must" and checkpoint is None:
            raise CheckpointError(
                f"resume=must, but {self.checkpoints} holds no whole checkpoint. Use runtime.resume=auto to start over."
            )
        archived = None
        if self.writer and self._has_content() and (force or (checkpoint is not None and resume == "never")):
            archived, checkpoint, old = self._archive(), None, {}
        elif resume == "never":
            checkpoint = None
        attempt = int(old.get("attempt") or 0) + 1
        start = _describe(self.path.name, old, checkpoint, archived, attempt)
        self._begin(record, start)
        return start

    def _begin(self, record: dict[str, Any], start: Start) -> None:
        if not self.writer:
            return
        if start.action == "start":
            self.rewind(-1)
        for folder in (self.checkpoints, self.routing):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self.error_log.unlink(missing_ok=True)
        where = snapshot()
        attempts = (read_json(self.run_json) or {}).get("attempts") or []
        attempts = [*attempts, {"attempt": start.attempt, "started": now(), "host": where["host"], "git": where["git"]}]
        write_json(self.run_json, redact({**record, **where, "attempts": attempts}))
        self._status = {
            "run_id": self.path.name,
            "state": "running",
            "attempt": start.attempt,
            "pid": os.getpid(),
            "host": host(),
            "started": now(),
            "step": 0,
            "exit_code": None,
            "reason": None,
        }
        self.update()

    def _check_science(self, record: dict[str, Any]) -> None:
        stored = (read_json(self.run_json) or {}).get("science")
        asked = record.get("science")
        if stored is None or asked is None:
            return
        changes = differences(stored, plain(redact(asked)))
        if changes:
            listed = "\n".join(f"  {key}: {old} → {new}" for key, old, new in changes)
            raise ConfigError(
                f"{self.path} holds another run; these settings differ (there → asked):\n{listed}\n"
                "Nothing was changed. Use another runs_dir=, or force=true to put the old folder aside and start over."
            )

    def _has_content(self) -> bool:
        return any(not entry.name.startswith(".") for entry in self.path.iterdir())

    def _archive(self) -> Path:
        """Move the folder to ``<name>~1`` (the next free number) and take a fresh one."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}~{number}")).exists():
            number += 1
        self.path.rename(aside)
        old_lock, self._lock = self._lock, None
        self._take()
        if old_lock is not None:
            old_lock.release()
        (aside / ".owner.json").unlink(missing_ok=True)
        return aside


def outcome(error: BaseException) -> tuple[str, int]:
    """(state, exit code) of a run that ``error`` ended."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return {EXIT_SIGTERM: "preempted", EXIT_SIGINT: "interrupted"}.get(code, "failed"), code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", EXIT_SIGINT
    if isinstance(error, DivergedError):
        return "diverged", error.exit_code
    return "failed", error.exit_code if isinstance(error, MoeBenchError) else 1


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The step folder with the highest number."""
    steps = sorted(path for path in checkpoints.glob("step-*") if path.is_dir())
    return steps[-1] if steps else None


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old, new) wherever two nested dicts differ. 2 equals 2.0."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [
            change
            for name in names
            for change in differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if old == new else [(key, old, new)]


def _describe(name: str, old: dict[str, Any], checkpoint: Path | None, archived: Path | None, attempt: int) -> Start:
    if archived is not None:
        return Start("start", f"{name}: starting over; the earlier run is kept in {archived.name}", attempt)
    ended = {"running": "was killed", "queued": "never began"}.get(old.get("state", ""), old.get("state") or "")
    before = f" (attempt {attempt - 1} {ended})" if ended else ""
    if checkpoint is None:
        return Start("start", f"{name}: starting{before}", attempt)
    return Start("resume", f"{name}: resuming from {checkpoint.name}{before}", attempt, checkpoint)
