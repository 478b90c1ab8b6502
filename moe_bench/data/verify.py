"""Decode every picture of a split and tell of each that cannot be: a run meets them one at a time, when it is due.

A label, or a picture, that is another one and still whole shows in the checksums of meta.json only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from moe_bench.data.dataset import PictureReader, Request
from moe_bench.data.decode import MAX_PIXELS, decode
from moe_bench.data.index import ShardIndex
from moe_bench.data.loader import BatchLoader, InOrder, default_workers
from moe_bench.data.sources import declared_shards, read_meta
from moe_bench.errors import MoeBenchError

AT_ONCE = 64  # pictures


class Faults(Dataset["list[tuple[int, str]] | MoeBenchError"]):
    """``faults[requests]``: (picture, what is wrong with it) for each picture that is not whole."""

    def __init__(self, index: ShardIndex, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._read = PictureReader(index)

    def __getitem__(self, requests: Sequence[Request]) -> list[tuple[int, str]] | MoeBenchError:
        try:
            told = [(picture, self._fault(picture)) for picture, _ in requests]
        except MoeBenchError as error:  # the shard itself is gone; raised by the loader
            return error
        return [(picture, fault) for picture, fault in told if fault is not None]

    def _fault(self, picture: int) -> str | None:
        try:
            decode(self._read(picture), self.max_pixels)
        except ValueError as error:
            return str(error)
        return None


def faults(
    index: ShardIndex,
    *,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda pictures: None,
) -> Iterator[str]:
    """``shard:key`` and what is wrong, for every picture that cannot be decoded, in order.

    Args: workers, data processes (None: one a core); advance is told how many pictures are done.
    Raises DataError if a shard is not what was indexed.
    """
    everything = InOrder(np.arange(len(index)), AT_ONCE, pad_to=1)
    workers = default_workers() + 1 if workers is None else workers
    loader: Iterable[Any] = BatchLoader(Faults(index, max_pixels), everything, workers)
    done = 0
    for found in loader:
        yield from (f"{index.name(picture)} {fault}" for picture, fault in found)
        advance(min(AT_ONCE, len(index) - done))
        done += AT_ONCE


def altered(folder: Path) -> Iterator[str]:
    """Each shard of a data set folder whose sha256 is not that of meta.json, where it has one."""
    for name, entry in declared_shards(read_meta(folder)).items():
        if "sha256" in entry:
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != (made := entry["sha256"]):
                yield f"{folder / name} is not as it was made: sha256 {found[:12]}…, meta.json says {made[:12]}…"
