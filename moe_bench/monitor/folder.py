"""The folder of one run: who may write it, whether to start, resume or skip, and its four JSON files.

    run.json       what was asked and where it ran          status.json    where it stands, with a heartbeat
    metrics.jsonl  one object a line                        summary.json   the result; its presence means finished

Every JSON file is replaced as a whole (``atomic``), starred out (``secrets``), and written by one process (``lock``).
Imports no torch, so that a finished run is skipped at once.
"""

from __future__ import annotations

import math
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from moe_bench.config.identity import difference
from moe_bench.errors import DISK_FULL, CheckpointError, ConfigError
from moe_bench.monitor.atomic import FOLDER_MODE, make_writable, plain, read_json, shortage, write_json
from moe_bench.monitor.environment import host, snapshot
from moe_bench.monitor.lifecycle import BY_SIGNAL, Checkpoint, Start, begin, outcome, skip
from moe_bench.monitor.lock import FolderLock, now
from moe_bench.monitor.pulse import Pulse
from moe_bench.monitor.rows import cut_after
from moe_bench.secrets import redact

BEAT_S = 10.0  # well below LEASE_S, after which another host takes a run for dead


class RunFolder:
    """Use as a context: leaving it releases the lock, and an error on the way is written to status.json.

    ``writer`` is True on rank 0 only; on other ranks nothing is locked or written, and rank 0 tells them its ``Start``.
    From ``open`` to its end a run that is not skipped has a fresh heartbeat in status.json every ``beat_s`` seconds.
    """

    def __init__(self, path: str | os.PathLike[str], writer: bool = True, beat_s: float = BEAT_S) -> None:
        self.path = Path(path)
        self.writer = writer
        self.run_json = self.path / "run.json"
        self.status_json = self.path / "status.json"
        self.metrics_jsonl = self.path / "metrics.jsonl"
        self.summary_json = self.path / "summary.json"
        self.error_log = self.path / "error.log"
        self.checkpoints = self.path / "checkpoints"
        self.routing = self.path / "routing"
        self._beat_s = beat_s
        self._pulse: Pulse | None = None
        self._lock: FolderLock | None = None
        self._status: dict[str, Any] = {}
        self._one_update = threading.Lock()
        self._taken: tuple[int, int] | None = None  # device and inode of the folder that we hold

    def open(
        self,
        record: dict[str, Any],
        *,
        find_checkpoint: Callable[[Path], Checkpoint | None],
        resume: str = "auto",
        force: bool = False,
    ) -> Start:
        """Take the folder, decide, and get it ready for the decision.

        ``record`` goes to run.json; its "science" must equal what is stored there. ``find_checkpoint`` maps
        checkpoints/ to the one to go on from. ``resume``: "never" (an unfinished run is put aside), "must", or any
        other word, which is for ``find_checkpoint`` alone.
        ``force`` puts even a finished run aside, as ``<name>~1``.

        Raises, leaving what is there as it is: RunInUseError (another process writes it), ConfigError (it holds another
        run), CheckpointError ("must" without a checkpoint, or the file system refuses).
        """
        if not force and (finished := self.finished(record.get("science"))):
            return finished
        self._take()
        try:
            return self._decide(record, find_checkpoint, resume, force)
        except BaseException:
            self.close()
            raise

    @property
    def started_over(self) -> int:
        """How often a run of this name was put aside for a new one."""
        return int((read_json(self.run_json) or {}).get("started_over") or 0)

    def lengths(self) -> dict[str, int]:
        """Bytes in each file of rows, by its name within the folder; a checkpoint remembers them for ``rewind``."""
        return {str(path.relative_to(self.path)): path.stat().st_size for path in self._tables() if path.exists()}

    def rewind(self, step: int, lengths: Mapping[str, int] | None = None) -> None:
        """Drop rows beyond ``step`` or beyond those ``lengths``, and a torn last one, from every file of rows."""
        if self.writer:
            for path in self._tables():
                name = str(path.relative_to(self.path))
                cut_after(path, step, math.inf if lengths is None else lengths.get(name, 0))

    def _tables(self) -> list[Path]:
        return [self.metrics_jsonl, *sorted(self.routing.glob("*.jsonl"))]

    def record(self, **fields: Any) -> None:
        """Add ``fields`` to run.json."""
        if self.writer:
            self._check_place()
            write_json(self.run_json, redact({**(read_json(self.run_json) or {}), **plain(fields)}))

    def update(self, **fields: Any) -> None:
        """Write ``fields`` and a fresh heartbeat to status.json. Raises CheckpointError if the folder is gone."""
        if not self.writer:
            return
        self._check_place()
        with self._one_update:
            self._status |= {**fields, "heartbeat": now()}
            write_json(self.status_json, redact(plain(self._status)))

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete. summary.json is written last."""
        if self.writer:
            self._stop_pulse()
            self.update(state="finished", exit_code=0, reason=None, ended=now())
            write_json(self.summary_json, redact(plain(summary)))

    def settle(self, pid: int, exit_code: int, reason: str) -> None:
        """Write how a run ended whose writer ``pid`` was killed before it could. For who watched over it."""
        status = read_json(self.status_json) or {}
        if (status.get("state"), status.get("pid")) != ("running", pid):
            return
        self._take()
        self._status = status
        self.update(state=BY_SIGNAL.get(exit_code, "failed"), exit_code=exit_code, reason=reason, ended=now())
        self.close()

    def fail(self, error: BaseException) -> None:
        """Write why the run ended early; the traceback goes to error.log."""
        if not self.writer or not self._in_place():
            return
        self.error_log.write_text(redact("".join(traceback.format_exception(error))), encoding="utf-8")
        state, code = outcome(error)
        said = f"exited with code {code}" if isinstance(error, SystemExit) else str(error)
        reason = " ".join(said.split()) or type(error).__name__
        self.update(state=state, exit_code=code, reason=reason, checkpoint=self._last_checkpoint(), ended=now())

    def _last_checkpoint(self) -> str | None:
        """The name of the newest checkpoint, as its pointer says."""
        try:
            return (self.checkpoints / "last").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Release the folder. Safe to call twice."""
        self._stop_pulse()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _stop_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None or self._lock is None:
                return
            told = self._storage_fault(error)
            if self._status.get("state") == "running":
                with suppress(OSError, CheckpointError):  # the first error is the one to tell
                    self.fail(told or error)
            if told is not None:
                raise told from error
        finally:
            self.close()

    def _storage_fault(self, error: BaseException) -> CheckpointError | None:
        """What an error of the file system means for the run; None for all others."""
        if isinstance(error, OSError | CheckpointError) and not self._in_place():
            return self._gone()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return CheckpointError(
                f"{self.path} cannot be written: {error}{shortage(error, self.path)}. "
                "Free some space, then type the same command again: it goes on from its last checkpoint."
            )
        return None

    def _check_place(self) -> None:
        if not self._in_place():
            raise self._gone()

    def _in_place(self) -> bool:
        """Whether the folder that we hold is where it was: not deleted, not moved, not made anew by somebody."""
        return self._taken is not None and self._taken == _identity(self.path)

    def _gone(self) -> CheckpointError:
        return CheckpointError(
            f"The run folder {self.path} was moved or deleted while the run was writing it. "
            "Put it back and type the same command again to go on from its last checkpoint."
        )

    def _take(self) -> None:
        try:
            self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"Cannot make the run folder {self.path}: {error.strerror or error}. "
                "Go to a folder that you may write to, or name one with runs_dir=DIR."
            ) from error
        lock = FolderLock(self.path)
        lock.acquire(read_json(self.status_json))
        self._lock, self._taken = lock, _identity(self.path)

    def finished(self, science: dict[str, Any] | None) -> Start | None:
        """What to say of a run that is complete; None if it is not. Raises ConfigError if it is another run."""
        summary = read_json(self.summary_json)
        if summary is None:
            return None
        self._check_science(science)
        return skip(self.path.name, summary)

    def _decide(
        self, record: dict[str, Any], find_checkpoint: Callable[[Path], Checkpoint | None], resume: str, force: bool
    ) -> Start:
        if not force:
            if finished := self.finished(record.get("science")):  # by the process that held the lock until now
                self.close()
                return finished
            self._check_science(record.get("science"))
        started_over = self.started_over
        aside = self._put_aside() if self.run_json.exists() and (force or resume == "never") else None
        checkpoint = find_checkpoint(self.checkpoints) if resume != "never" and self.checkpoints.is_dir() else None
        if resume == "must" and checkpoint is None:
            raise CheckpointError(
                f"resume=must, but {self.checkpoints} holds no checkpoint. Use runtime.resume=auto to start at step 0."
            )
        start = begin(read_json(self.status_json) or {}, checkpoint, aside)
        self._begin({**record, "started_over": started_over + (aside is not None)}, start)
        return start

    def _begin(self, record: dict[str, Any], start: Start) -> None:
        self.rewind(start.step if start.checkpoint else -1, start.lengths)
        for folder in (self.checkpoints, self.routing):
            make_writable(folder)
        self.error_log.unlink(missing_ok=True)
        where, started = snapshot(), now()
        attempts = (read_json(self.run_json) or {}).get("attempts") or []
        attempt = {
            "attempt": start.attempt,
            "started": started,
            "host": host(),
            "step": start.step,
            "git": where["git"],
            "overrides": record.get("overrides"),
        }
        write_json(self.run_json, redact(plain({**record, **where, "attempts": [*attempts, attempt]})))
        self._status = {"run_id": self.path.name, "state": "running", "attempt": start.attempt, "step": start.step}
        self.update(pid=os.getpid(), host=host(), started=started, exit_code=None, reason=None)
        self._pulse = Pulse(self.update, self._beat_s)

    def _check_science(self, science: dict[str, Any] | None) -> None:
        stored = (read_json(self.run_json) or {}).get("science")
        if not stored or science is None:
            return
        changes = difference(stored, redact(plain(science)))
        if changes:
            raise ConfigError(
                f"{self.path} holds another run. These settings differ (there → asked):\n  "
                + "\n  ".join(changes)
                + "\nNothing was changed. Use another runs_dir=, or force=true to put that run aside and start over."
            )

    def _put_aside(self) -> Path:
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


def _identity(folder: Path) -> tuple[int, int] | None:
    """The same for a folder as long as it exists, whatever it is called; None for none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
