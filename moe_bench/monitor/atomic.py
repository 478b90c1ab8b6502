"""JSON files that are whole or absent: written beside their place, synced, then renamed over it."""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from moe_bench.errors import DISK_FULL, CheckpointError
from moe_bench.monitor.units import size

FILE_MODE = 0o644
FOLDER_MODE = 0o755
REMEDY = "Free some space or mend the folder, then type the same command again."


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: nan and infinities become null, because JSON has no word for them."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "item"):  # a 0-d tensor or a NumPy scalar, without importing either
        return plain(value.item())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` so that a reader, or a power cut, sees the old file or the new one.

    Raises CheckpointError when the file system refuses, naming the path and its reason.
    """
    try:
        _replace(path, value)
    except OSError as error:
        kept = " The file that was there before is intact." if path.is_file() else ""
        raise CheckpointError(f"Cannot write {path}: {_reason(error, path.parent)}.{kept} {REMEDY}") from error


def _replace(path: Path, value: Any) -> None:
    data = (json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: a rename never crosses a file system
    try:
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except OSError:
        with suppress(OSError):  # where no file can be, as under another file, there is none to remove either
            temp.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_writable(folder: Path, *, parents: bool = False, remedy: str = REMEDY) -> None:
    """Make ``folder``, and write, sync and rename a file in it now rather than after hours of work.

    Args: parents, whether to make those too. remedy, what to do where it cannot be.
    Raises CheckpointError when the file system refuses.
    """
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=parents, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"Cannot make the folder {folder}: {_reason(error, folder.parent)}. {remedy}") from error
    probe = folder / ".writable"
    try:
        _replace(probe, {})
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"Cannot write in the folder {folder}: {_reason(error, folder)}. {remedy}") from error


def _reason(error: OSError, folder: Path) -> str:
    return f"{error.strerror or error}{shortage(error, folder)}"


def free_space(folder: Path) -> int | None:
    """Bytes that we may still write there; None where that cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def shortage(error: OSError, folder: Path, needed: int | None = None) -> str:
    """For the message of a failed write: where it was for want of space, how much there is, and is ``needed``."""
    if error.errno not in DISK_FULL:
        return ""
    takes = "" if needed is None else f"it takes about {size(needed)}, and "
    return f"; {takes}{size(free_space(folder))} are free there"


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None if the file is missing, torn or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
