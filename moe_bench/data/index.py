"""All pictures of a split in one lean table, made once and kept in the cache.

The number of a picture is its place in the order of the shards as listed, then in the order within a shard. A table
takes 12 bytes a picture and 4 for each label; names stay on disk until a message needs one.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from moe_bench.data.cache import Shard, cache_folder, check_space, find, materialise, plain_path, replacing
from moe_bench.data.progress import progress as show_progress
from moe_bench.data.sources import declared_shards, is_remote, read_meta, resolve
from moe_bench.data.tar import LabelReader, Records, read_records
from moe_bench.errors import DataError

FORMAT = 1  # of the files in the cache; another number makes them anew
THREADS = 4


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The pictures of a split. N pictures in S shards, L labels a picture at most."""

    shards: tuple[str, ...]  # as named by the user, without secrets
    paths: tuple[str, ...]  # the plain tars
    counts: NDArray[np.int64]  # (S,) pictures
    offsets: NDArray[np.int64]  # (N,) first byte in the plain tar
    sizes: NDArray[np.uint32]  # (N,) bytes
    labels: NDArray[np.int32]  # (N, L), filled up with -1
    num_classes: int  # from meta.json, else the largest label + 1
    fingerprint: str  # of names, sizes and labels of all pictures, wherever the shards lie
    ignored: int  # members that are neither pictures nor labels
    stamps: tuple[tuple[int, int], ...]  # size and modification time (ns) of the plain tars
    records: tuple[str, ...]  # where the cache keeps the table of each shard

    def __len__(self) -> int:
        return len(self.offsets)

    def shard_of(self, picture: int) -> int:
        """The number of the shard that holds a picture."""
        return int(np.searchsorted(np.cumsum(self.counts), picture, side="right"))

    def key(self, picture: int) -> str:
        """The name of a picture within its shard."""
        shard = self.shard_of(picture)
        first = int(self.counts[:shard].sum())
        with np.load(self.records[shard], allow_pickle=False) as table:
            keys = table["keys"].tobytes().split(b"\0")
        return keys[picture - first].decode("utf-8", "replace")

    def name(self, picture: int) -> str:
        """``shard:key`` of a picture, for messages."""
        return f"{self.shards[self.shard_of(picture)]}:{self.key(picture)}"

    def check_labels(self, num_classes: int) -> None:
        """Raises DataError naming the first picture whose label is not in [0, num_classes)."""
        wrong = np.flatnonzero((self.labels >= num_classes).any(axis=1))
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"{self.name(first)} has the label {int(self.labels[first].max())}, out of range for {num_classes} "
                f"classes (0 to {num_classes - 1}); so have {len(wrong):,} of {len(self):,} pictures. "
                "Set data.num_classes, or mend meta.json or the labels"
            )


def stamp(path: str | Path) -> tuple[int, int]:
    """Size and modification time (ns): a file that changed has another."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def open_split(
    source: str | Sequence[str],
    *,
    labels: str = "single",
    label_key: str = "label",
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> ShardIndex:
    """The index of the shards that ``source`` names (see ``sources.resolve``), made where it is not in the cache.

    Args: labels "single" or "multi"; label_key, of a .json; progress: show it while fetching and indexing.
    Raises DataError for missing or damaged shards and for what contradicts a meta.json beside them.
    """
    cache = cache_folder(cache_dir)
    shards = find(resolve(source))
    meta = _meta_beside(shards)
    _check_sizes(shards, meta)
    reader = LabelReader(labels, label_key)
    tables = _prepare(shards, cache, reader, progress)
    _check_counts(shards, tables, meta)
    index = _join(shards, cache, reader, tables, meta)
    index.check_labels(index.num_classes)
    return index


def _join(
    shards: list[Shard], cache: Path, reader: LabelReader, tables: list[Records], meta: dict[str, Any]
) -> ShardIndex:
    width = max(table.labels.shape[1] for table in tables)
    total = sum(len(table.offsets) for table in tables)
    labels = np.full((total, width), -1, dtype=np.int32)
    first = 0
    for table in tables:
        labels[first : first + len(table.labels), : table.labels.shape[1]] = table.labels
        first += len(table.labels)
    paths = [plain_path(shard, cache) for shard in shards]
    return ShardIndex(
        shards=tuple(shard.name for shard in shards),
        paths=tuple(map(str, paths)),
        counts=np.array([len(table.offsets) for table in tables], dtype=np.int64),
        offsets=np.concatenate([table.offsets for table in tables]),
        sizes=np.concatenate([table.sizes for table in tables]),
        labels=labels,
        num_classes=int(meta.get("num_classes") or labels.max() + 1),
        fingerprint=hashlib.sha256("".join(table.digest() for table in tables).encode()).hexdigest(),
        ignored=sum(table.ignored for table in tables),
        stamps=tuple(map(stamp, paths)),
        records=tuple(str(_table_path(shard, cache, reader)) for shard in shards),
    )


def _prepare(shards: list[Shard], cache: Path, reader: LabelReader, progress: bool) -> list[Records]:
    """The table of every shard: from the cache, else made now. Several processes share the work shard by shard."""
    tables = [_load(_table_path(shard, cache, reader), plain_path(shard, cache)) for shard in shards]
    missing = [place for place, table in enumerate(tables) if table is None]
    check_space([shards[place] for place in missing], cache)
    make = partial(_make, cache=cache, reader=reader)
    with (
        show_progress("reading shards", len(missing), "shards", progress and bool(missing)) as advance,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        try:
            for wait in (False, True):  # first what nobody else is making, then wait for the others
                todo = [place for place in missing if tables[place] is None]
                for place, table in zip(todo, pool.map(partial(make, wait=wait), [shards[place] for place in todo])):
                    tables[place] = table
                    if table is not None:
                        advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [table for table in tables if table is not None]


def _make(shard: Shard, *, cache: Path, reader: LabelReader, wait: bool) -> Records | None:
    """Fetches and indexes one shard under its lock. None if another process has the lock and ``wait`` is False."""
    target = _table_path(shard, cache, reader)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / "index" / f"{shard.key}.lock", timeout=-1 if wait else 0):
            path = materialise(shard, cache)
            done = _load(target, path)
            if done is not None:
                return done
            try:
                table = read_records(path, shard.name, reader)
            except DataError:
                if not shard.in_place:
                    path.unlink()  # a copy of what was damaged: the next attempt fetches it again
                raise
            _save(table, target)
            return table
    except Timeout:
        return None


def _table_path(shard: Shard, cache: Path, reader: LabelReader) -> Path:
    how = hashlib.sha256(f"{FORMAT}\n{reader.kind}\n{reader.key}".encode()).hexdigest()[:8]
    return cache / "index" / f"{shard.key}-{how}.npz"


def _save(table: Records, target: Path) -> None:
    with replacing(target) as temporary, open(temporary, "wb") as out:
        np.savez(
            out,
            offsets=table.offsets,
            sizes=table.sizes,
            labels=table.labels,
            keys=table.keys,
            ignored=np.int64(table.ignored),
        )


def _load(target: Path, plain: Path) -> Records | None:
    """A table of the cache; None if it, or the tar it describes, is missing or not whole."""
    if not target.exists() or not plain.exists():
        return None
    try:
        with np.load(target, allow_pickle=False) as table:
            columns = {name: table[name] for name in ("offsets", "sizes", "labels", "keys")}
            return Records(**columns, ignored=int(table["ignored"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _meta_beside(shards: list[Shard]) -> dict[str, Any]:
    """The meta.json of the one local folder that holds all shards; {} if there is none."""
    if any(is_remote(shard.location) for shard in shards):
        return {}
    folders = {os.path.dirname(os.path.abspath(shard.location)) for shard in shards}
    return read_meta(Path(folders.pop())) if len(folders) == 1 else {}


def _check_sizes(shards: list[Shard], meta: dict[str, Any]) -> None:
    declared = declared_shards(meta)
    for shard in shards:
        expected = declared.get(os.path.basename(shard.location), {}).get("bytes")
        if expected is not None and shard.size != expected:
            raise DataError(f"{shard.name} has {shard.size:,} bytes and meta.json says {expected:,}; fetch it again")


def _check_counts(shards: list[Shard], tables: list[Records], meta: dict[str, Any]) -> None:
    declared = declared_shards(meta)
    for shard, table in zip(shards, tables):
        expected = declared.get(os.path.basename(shard.location), {}).get("samples")
        if expected is not None and len(table.offsets) != expected:
            raise DataError(
                f"{shard.name} has {len(table.offsets):,} pictures and meta.json says {expected:,}; fetch it again"
            )
