"""One writer for each run folder: a kernel lock, which dies with its process, and a note saying who holds it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moe_bench.errors import CheckpointError, RunInUseError
from moe_bench.monitor.atomic import read_json, write_json
from moe_bench.monitor.environment import host

LEASE_S = 60.0
"""A run on another host is alive if its heartbeat is younger: some network file systems keep locks to one host."""


NOTE_S = 1.0
"""Longest wait for the note of an owner that holds the lock and has not written it yet."""


def now() -> str:
    """The time of day as all files here write it: UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def age_s(stamp: Any) -> float | None:
    """Seconds since ``stamp`` (as ``now`` writes it), never negative; None if it is no time."""
    try:
        then = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


class FolderLock:
    """Held from ``acquire`` to ``release`` or to the death of the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / ".lock", timeout=0, mode=0o600, thread_local=False)
        self._owner = folder / ".owner.json"

    def acquire(self, status: dict[str, Any] | None) -> None:
        """Raises RunInUseError naming the owner. ``status`` is what status.json says about the last attempt."""
        try:
            self._lock.acquire()
        except Timeout:
            raise RunInUseError(_in_use(self.folder, self._note())) from None
        except OSError as error:
            raise CheckpointError(f"Cannot lock {self.folder}: {error.strerror or error}.") from error
        if _alive_elsewhere(status):
            self._lock.release()
            raise RunInUseError(_in_use(self.folder, status))
        write_json(self._owner, {"pid": os.getpid(), "host": host(), "started": now()})

    def _note(self) -> dict[str, Any] | None:
        """Who holds the lock. One who took it this moment is about to write so."""
        deadline = time.monotonic() + NOTE_S
        while (owner := read_json(self._owner)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return owner

    def release(self) -> None:
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
            self._lock.release()


def _alive_elsewhere(status: dict[str, Any] | None) -> bool:
    if not status or status.get("state") != "running" or status.get("host") == host():
        return False
    age = age_s(status.get("heartbeat"))
    return age is not None and age < LEASE_S


def _in_use(folder: Path, owner: dict[str, Any] | None) -> str:
    owner = owner or {}
    who = f"process {owner.get('pid', '(unknown)')} on {owner.get('host', 'an unknown host')}"
    since = f", since {owner['started']}" if owner.get("started") else ""
    return (
        f"{folder} is being written by {who}{since}. Nothing was changed. Wait for it, or stop it; "
        f"`moe-bench ls {folder.parent}` shows how far it is."
    )
