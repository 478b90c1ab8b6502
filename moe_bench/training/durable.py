"""Writing files that survive a crash: synced before anyone relies on them, hashed while they are written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

_READ = 1 << 22  # bytes hashed at once


class HashedFile:
    """What torch.save writes to: every byte goes to the file and into the hash."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None  # torch turns an error of write() into another one on its way out

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def write_state(state: Mapping[str, Any], path: Path) -> tuple[int, str]:
    """torch.save to ``path``, synced; returns (bytes, sha256). Raises OSError if the file system refuses."""
    with path.open("wb") as file:
        hashed = HashedFile(file)
        try:
            torch.save(dict(state), hashed)  # type: ignore[arg-type]  # write and flush are all it needs
        except Exception as error:
            raise (hashed.error or error) from None
        file.flush()
        os.fsync(file.fileno())
    return hashed.size, hashed.sha256.hexdigest()


def bytes_of(state: Any) -> int:
    """Of all tensors in nested containers, which is about the size of a file of them."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(bytes_of, parts))


def write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_READ):
        digest.update(chunk)
    return digest.hexdigest()


def discard(path: Path) -> None:
    """Remove a file or folder if it is there and can be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
