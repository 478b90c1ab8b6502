"""Read every run folder under runs/: JSON only, and nothing there can make it fail.

A file that is torn, empty or not an object counts as absent and is listed by name. Archived folders (``<name>~1``) are
counted and otherwise left out.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from moe_bench.monitor.environment import host
from moe_bench.monitor.lock import age_s

SILENT_S = 600.0
"""A running run without a heartbeat for so long is taken for dead."""

LARGEST = 1e100
"""Squares of larger numbers overflow, and no figure of a run is as large."""

_ARCHIVED = re.compile(r"~\d+$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True)
class Run:
    """One run folder. ``summary`` is None until it is finished."""

    name: str
    path: Path
    state: str  # finished, running, failed, diverged, preempted, interrupted, queued, killed, unknown
    reason: str
    router: str
    model: str
    capacity: float | None
    data: str
    seed: int | None
    science: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)  # the words that asked for it
    summary: dict[str, Any] | None = None
    step: int | None = None
    steps: int | None = None
    eta_s: float | None = None
    age_s: float | None = None  # since its last heartbeat

    def number(self, name: str) -> float | None:
        """A figure of the summary, if it is one."""
        return as_number((self.summary or {}).get(name))


@dataclass(frozen=True)
class Collection:
    """All runs of a folder, the damaged files met on the way, and how many archived folders were left out."""

    root: Path
    runs: list[Run]
    torn: list[Path]
    archived: int


def collect(root: Path) -> Collection:
    """The runs in the folders of ``root``, or the one that ``root`` is itself; sorted by name."""
    torn: list[Path] = []
    if _is_run(root):
        return Collection(root, [_read(root, torn)], torn, 0)
    with os.scandir(root) as entries:
        folders = sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    archived = [folder for folder in folders if _ARCHIVED.search(folder.name)]
    runs = [_read(folder, torn) for folder in folders if not _ARCHIVED.search(folder.name) and _is_run(folder)]
    return Collection(root, runs, torn, len(archived))


def as_number(value: Any) -> float | None:
    """``value`` if it is a number to reckon with: one nan would make nan of every mean that it is in."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with suppress(OverflowError):  # JSON may hold integers of any length
        number = float(value)
        return number if abs(number) < LARGEST else None  # so is not nan
    return None


def clean(text: Any) -> str:
    """One line without control characters, which could write to a terminal."""
    return _CONTROL.sub(" ", str(text)).strip()


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("run.json", "status.json", "summary.json"))


def _read(folder: Path, torn: list[Path]) -> Run:
    record, status = _json(folder / "run.json", torn) or {}, _json(folder / "status.json", torn) or {}
    summary = _json(folder / "summary.json", torn)
    config, science = _dict(record.get("config")), _dict(record.get("science"))
    said = summary or {}
    state, reason = _state(status, summary)
    return Run(
        name=clean(folder.name),
        path=folder,
        state=state,
        reason=clean(reason),
        router=clean(said.get("router") or _dict(config.get("router")).get("name") or "unknown"),
        model=clean(said.get("model") or _dict(config.get("model")).get("name") or "unknown"),
        capacity=as_number(said.get("capacity", _dict(config.get("capacity")).get("factor"))),
        data=clean(said.get("data") or science.get("data.name") or "unknown"),
        seed=_int(said.get("seed", config.get("seed"))),
        science=science,
        config=config,
        overrides=_words(record.get("overrides")),
        summary=summary,
        step=_int(said.get("steps", status.get("step"))),
        steps=_int(status.get("steps", _dict(config.get("recipe")).get("steps"))),
        eta_s=as_number(status.get("eta_s")),
        age_s=age_s(status.get("heartbeat")),
    )


def _state(status: dict[str, Any], summary: dict[str, Any] | None) -> tuple[str, str]:
    """(state, reason): what status.json says, unless the process that said "running" is gone."""
    if summary is not None:
        return "finished", ""
    state, reason = clean(status.get("state") or "unknown"), status.get("reason") or ""
    if state == "finished":  # it never came to write its summary
        return "killed", "before its summary was written"
    if state == "running" and _is_dead(status):
        return "killed", "the process is gone"
    return state, reason


def _is_dead(status: dict[str, Any]) -> bool:
    pid, age = status.get("pid"), age_s(status.get("heartbeat"))
    if status.get("host") == host() and isinstance(pid, int) and not _lives(pid, since_s=age_s(status.get("started"))):
        return True
    return age is None or age > SILENT_S


def _lives(pid: int, since_s: float | None) -> bool:
    """Whether process ``pid`` runs, and has done so since a run began ``since_s`` ago: numbers are used again."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return since_s is None or time.time() - process.create_time() > since_s - 2  # times are in whole seconds
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def _json(path: Path, torn: list[Path]) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        torn.append(path)
        return None
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> list[str]:
    return [clean(word) for word in value] if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
