"""Checkpoints on disk: written whole or not at all, checked before they are read, and read without running code.

    checkpoints/step-00001200/state.ckpt      tensors and plain containers, as torch.save writes them
    checkpoints/step-00001200/manifest.json   step, samples seen, size and sha256 of state.ckpt, what the run is
    checkpoints/last                          the name of the newest one, for people and scripts

A checkpoint is first a hidden folder beside its place. Its files are synced, the folder is renamed, the parent
synced, and then the pointer is replaced: at any moment a crash leaves the earlier checkpoints and at most one hidden
leftover. Which one is newest is read from the manifests, never from file times. No Lightning here.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_bench.errors import CheckpointError, SecurityError
from moe_bench.monitor.atomic import shortage, sync_folder
from moe_bench.training.durable import bytes_of, discard, sha256_of, write_state, write_text

SCHEMA = 1
STATE, MANIFEST, LAST = "state.ckpt", "manifest.json", "last"
MODEL_PREFIX = "model."  # where the LightningModule keeps the network

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint: its folder and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def lengths(self) -> dict[str, int] | None:
        """Bytes that each file of rows had when this was saved."""
        return self.manifest.get("lengths")


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def write(state: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any]) -> None:
    """Save ``state`` as ``folder``, streaming: no second copy in memory, and hashed on the way.

    ``manifest`` (at least ``step``) is completed with size and hash. A whole checkpoint that is there already stays,
    since the same step of the same run is the same state; a damaged one is replaced.

    Raises:
        CheckpointError: the file system refuses; what was there before is untouched.
    """
    parent = folder.parent
    temp = parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        parent.mkdir(exist_ok=True)  # without its parents: a run folder that was deleted is not made again
        if not (folder.exists() and damage(folder) is None):
            temp.mkdir()
            size, digest = write_state(state, temp / STATE)
            complete = {"schema": SCHEMA, **manifest, "bytes": size, "sha256": digest}
            write_text(temp / MANIFEST, json.dumps(complete, indent=2) + "\n")
            sync_folder(temp)
            shutil.rmtree(folder, ignore_errors=True)  # only ever a damaged one
            temp.rename(folder)
            sync_folder(parent)
        _point(parent, folder.name)
    except OSError as error:
        discard(temp)
        raise CheckpointError(
            f"the checkpoint {folder} could not be written: {error}{shortage(error, parent, bytes_of(state))}. "
            "Earlier checkpoints are intact."
        ) from error


def latest(checkpoints: Path, fallback: bool = True) -> Saved | None:
    """The newest whole checkpoint, by the step in its manifest; None where there never was one.

    Each candidate's size and hash are checked, newest first; a damaged one is passed over with a warning that names
    both, unless there is to be no ``fallback``.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged, or the newest is and there is no ``fallback``.
    """
    faults: list[str] = []
    for folder in _newest_first(checkpoints):
        fault = damage(folder)
        if fault is None:
            if faults:
                log.warning("damaged checkpoint: %s; going on from %s instead", "; ".join(faults), folder)
            return Saved(folder, _manifest(folder))
        faults.append(f"{folder} ({fault})")
        if not fallback:
            raise CheckpointError(
                f"damaged checkpoint: {faults[0]}, and runtime.resume=newest goes on from no other. "
                "runtime.resume=auto takes the newest whole one."
            )
    if faults:
        raise CheckpointError(
            f"every checkpoint in {checkpoints} is damaged: {'; '.join(faults)}. "
            "Restore one from a backup, or begin again with runtime.resume=never."
        )
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, found without unpickling anything; None if it is whole."""
    state = folder / STATE
    try:
        manifest = _manifest(folder)
        size = state.stat().st_size
        if manifest.get("schema") != SCHEMA:
            return f"written in format {manifest.get('schema')}, this version reads {SCHEMA}"
        if size != manifest["bytes"]:
            return f"{STATE} has {size} bytes of {manifest['bytes']}"
        found = _digest(state, _stamp(state))
        return None if found == manifest["sha256"] else f"sha256 of {STATE} is {found[:12]}…, not as written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def _stamp(file: Path) -> tuple[int, ...]:
    """Changes when the file does."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=8)
def _digest(file: Path, stamp: tuple[int, ...]) -> str:
    """The sha256 of a file with that stamp. Kept, since a checkpoint is found first and loaded later."""
    with file.open("rb") as content:
        return sha256_of(content)


def load(folder: str | os.PathLike[str], *, mmap: bool = False) -> dict[str, Any]:
    """The state in a checkpoint folder, on the CPU. ``mmap`` reads only what is then used.

    Raises:
        CheckpointError: missing or damaged.
        SecurityError: a URL, or a file that would run code when unpickled; nothing of it has been run.
    """
    if "://" in str(folder):
        raise SecurityError(f"{folder} is a URL. Download the run's folder yourself and give its path.")
    path = Path(folder)
    if (fault := damage(path)) is not None:
        raise CheckpointError(f"the checkpoint {path} cannot be used: {fault}")
    if not zipfile.is_zipfile(path / STATE):
        raise SecurityError(
            f"{path / STATE} is not in the format that is written here and was not loaded: reading torch's older "
            "formats can run code."
        )
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise SecurityError(
            f"{path / STATE} holds more than tensors and plain containers, and loading it could run code. It was not "
            f"loaded. A file from elsewhere must be saved again as a plain state_dict. ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path / STATE} cannot be read: {_first_line(error)}") from error
    return dict(state)


def load_weights(source: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's weights by name, and the manifest, from a run folder, its ``checkpoints`` or one step folder.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        SecurityError: as ``load``.
    """
    if "://" in str(source):
        load(source)
    path = Path(source)
    if not (path / MANIFEST).exists():
        checkpoints = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        saved = latest(checkpoints)
        if saved is None:
            raise CheckpointError(f"there is no checkpoint in {checkpoints}")
        path = saved.path
    weights = load(path, mmap=True)["state_dict"]
    return {name.removeprefix(MODEL_PREFIX): value for name, value in weights.items()}, _manifest(path)


def check_fits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, with the first few differences, unless names and shapes are equal."""
    want = {name: tuple(value.shape) for name, value in expected.items()}
    have = {name: tuple(value.shape) for name, value in found.items()}
    wrong = [name for name in {**want, **have} if want.get(name) != have.get(name)]
    if wrong:
        lines = [f"  {name}: model {want.get(name, 'none')}, checkpoint {have.get(name, 'none')}" for name in wrong[:5]]
        more = [f"  … and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise CheckpointError(
            "\n".join([f"the checkpoint is of another model: {len(wrong)} parameters differ", *lines, *more])
        )


def clean(checkpoints: Path) -> None:
    """Remove what a killed process left half-written. Only the process that owns the run folder may."""
    for leftover in checkpoints.glob(".*.tmp"):
        discard(leftover)


def prune(checkpoints: Path, newest: int, keep: int) -> None:
    """Keep the ``keep`` newest up to step ``newest``. A folder that cannot be deleted is reported and left."""
    older = [folder for folder in _newest_first(checkpoints) if _step(folder) <= newest]
    for folder in older[keep:]:
        doomed = checkpoints / f".{folder.name}.{os.getpid()}.tmp"
        try:
            folder.rename(doomed)  # first out of sight: a half-deleted checkpoint must not look like one
            shutil.rmtree(doomed)
        except OSError as error:
            log.warning("could not delete the old checkpoint %s (%s); training goes on", folder, error)


def _point(checkpoints: Path, name: str) -> None:
    temp = checkpoints / f".{LAST}.{os.getpid()}.tmp"
    write_text(temp, name + "\n")
    temp.replace(checkpoints / LAST)
    sync_folder(checkpoints)


def _newest_first(checkpoints: Path) -> list[Path]:
    return sorted((f for f in checkpoints.glob("step-*") if f.is_dir()), key=_step, reverse=True)


def _step(folder: Path) -> int:
    """The step in the manifest; a folder without a readable one is placed by its name."""
    try:
        return int(_manifest(folder)["step"])
    except (OSError, ValueError, KeyError, TypeError):
        digits = folder.name.rpartition("-")[2]
        return int(digits) if digits.isdigit() else -1


def _manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
