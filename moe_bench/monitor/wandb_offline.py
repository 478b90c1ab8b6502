"""What W&B keeps of a run on disk until it is uploaded: a folder for each attempt, oldest first. Imports no W&B."""

from __future__ import annotations

from pathlib import Path

HEADER = 7  # bytes of a file without a record
UNFINISHED = "unfinished"


def attempts(run: Path) -> list[Path]:
    """W&B's file of each attempt of the run in folder ``run`` that W&B may not have, in the order that they began."""
    found = [file for file in run.glob("wandb/offline-run-*/*.wandb") if file.stat().st_size > HEADER]
    online = [file for file in run.glob("wandb/run-*/*.wandb") if (file.parent / UNFINISHED).exists()]
    return sorted(found + online, key=lambda file: file.parent.name.removeprefix("offline-"))


def mark_unfinished(run_files: Path) -> None:
    """An online attempt, whose files W&B keeps in ``run_files``, ended before all of it was uploaded."""
    (run_files.parent / UNFINISHED).touch()


def is_synced(file: Path) -> bool:
    return _marker(file).exists()


def mark_synced(file: Path) -> None:
    """As W&B itself marks a file that it has uploaded in full."""
    _marker(file).touch()


def _marker(file: Path) -> Path:
    return file.with_name(f"{file.name}.synced")
