"""Requests → a batch. A map-style data set that reads pictures by position, in any process and in any order.

A request is (picture, position): the number of a picture, or -1 for padding, and its place in the training sequence,
which seeds its augmentation. So what a batch holds depends on neither the worker that makes it nor the batches before.

B pictures a batch, S pixels a side, L labels a picture, K bad pictures in a batch.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from io import FileIO
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from moe_bench.data.bad import CAUSES, BadPicture, Tolerance
from moe_bench.data.decode import MAX_PIXELS, Transform, decode, to_range
from moe_bench.data.index import ShardIndex, stamp
from moe_bench.errors import DataError, MoeBenchError

OPEN_SHARDS = 64
GREY = 127  # of padding
Request = tuple[int, int]
Batch = dict[str, Tensor]


class PictureReader:
    """The bytes of pictures, read from where the index says. Keeps a few shards open.

    Forked processes share the open files safely: pread neither uses nor moves their position.
    """

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._ends = np.cumsum(index.counts)
        self._open: OrderedDict[int, FileIO] = OrderedDict()  # by number of the shard

    def __call__(self, picture: int) -> bytes:
        """Raises DataError if the shard is gone or not what was indexed."""
        shard = int(np.searchsorted(self._ends, picture, side="right"))
        if shard not in self._open:
            self._open[shard] = self._open_shard(shard)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        size, offset = int(self.index.sizes[picture]), int(self.index.offsets[picture])
        try:
            data = os.pread(self._open[shard].fileno(), size, offset)
        except OSError as error:  # of the disk or the network: no property of the picture
            raise DataError(f"{self.index.name(picture)} cannot be read: {error}") from error
        if len(data) != size:
            raise DataError(
                f"{self.index.name(picture)}: only {len(data):,} of {size:,} bytes are there; "
                + _changed(shard, self.index)
            )
        return data

    def _open_shard(self, shard: int) -> FileIO:
        path = self.index.paths[shard]
        try:
            now = stamp(path)
            file = FileIO(path)
        except OSError as error:
            raise DataError(f"{self.index.shards[shard]} cannot be opened any more: {error}") from error
        if now != self.index.stamps[shard]:
            raise DataError(_changed(shard, self.index))
        return file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # where processes are spawned, each opens its own


def _changed(shard: int, index: ShardIndex) -> str:
    return f"{index.shards[shard]} ({index.paths[shard]}) has changed since it was indexed; start again"


class Pictures(Dataset[Batch | MoeBenchError]):
    """Batches of transformed pictures: ``pictures[requests]``.

    Args:
        transform: RGB picture → uint8 (3, S, S).
        seed: of the augmentation, for training; None: the transform draws nothing, for evaluation.
        tolerance: of bad pictures; None: there is no choice, and the first one stops.
    """

    def __init__(
        self,
        index: ShardIndex,
        transform: Transform,
        image_size: int,
        seed: int | None = None,
        max_pixels: int = MAX_PIXELS,
        tolerance: Tolerance | None = None,
    ) -> None:
        self.index, self.transform, self.image_size = index, transform, image_size
        self.seed, self.max_pixels, self.tolerance = seed, max_pixels, tolerance
        self._read = PictureReader(index)
        self._bad: dict[int, int] = {}  # what this process found: picture → place of the cause in CAUSES

    def __getitem__(self, requests: Sequence[Request]) -> Batch | MoeBenchError:
        """A batch, or the error that prevented it: raised in a worker, torch would make a traceback's text of it."""
        try:
            return self.batch(requests)
        except MoeBenchError as error:
            return error

    def batch(self, requests: Sequence[Request]) -> Batch:
        """{"image": float32 (B, 3, S, S) in [-1, 1], "label": int64 (B, L), "valid": bool (B,), "index": int64 (B,),
        "bad": int64 (K, 3)}

        Labels are filled up with -1; all are -1 where valid is False. "index" has the number of the picture in each
        place, -1 for none. "bad" has, for each picture that could not be decoded, its number, its cause's place in
        CAUSES, and the picture in its place: in training the next whole one of the index, else none.

        Raises DataError for a bad picture that is not tolerated.
        """
        images, index = self._images(requests)
        valid = index >= 0
        labels = torch.from_numpy(self.index.labels[index.clamp(min=0).numpy()]).long()
        asked = (picture for picture, _ in requests)
        bad = [[one, self._bad[one], shown] for one, shown in zip(asked, index.tolist()) if one != shown]
        return {
            "image": images,
            "label": labels.masked_fill_(~valid[:, None], -1),
            "valid": valid,
            "index": index,
            "bad": torch.tensor(bad, dtype=torch.int64).reshape(-1, 3),
        }

    def _images(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        images = torch.full((len(requests), 3, self.image_size, self.image_size), GREY, dtype=torch.uint8)
        index = torch.full((len(requests),), -1)
        state = torch.get_rng_state()
        try:
            for place, (picture, position) in enumerate(requests):
                for number in self._candidates(picture):
                    if (image := self._decoded(number)) is not None:
                        images[place], index[place] = self._transformed(image, position), number
                        break
        finally:
            torch.set_rng_state(state)  # with workers=0 this process also draws dropout and routing noise
        return to_range(images), index

    def _candidates(self, picture: int) -> Iterable[int]:
        """The pictures for a place, the first whole one of which is taken."""
        if picture < 0:
            return ()
        if self.seed is None:
            return (picture,)
        return chain(range(picture, len(self.index)), range(picture))

    def _decoded(self, picture: int) -> Image.Image | None:
        """None for a bad picture that is tolerated."""
        if picture in self._bad:
            return None
        data = self._read(picture)
        try:
            return decode(data, self.max_pixels)
        except BadPicture as error:
            if self.tolerance is None or not self.tolerance.skip:
                choice = "" if self.tolerance is None else ". Replace it, or go on without it: data.on_error=skip"
                raise DataError(f"{self.index.name(picture)} {error}{choice}") from error
            self._bad[picture] = CAUSES.index(error.cause)
            self.tolerance.check(self.index, self._bad)
            return None

    def _transformed(self, image: Image.Image, position: int) -> Tensor:
        if self.seed is not None:
            torch.default_generator.manual_seed(mix(self.seed, position))
        return self.transform(image)


def mix(seed: int, position: int) -> int:
    """A well-stirred 63-bit number from (seed, position): SplitMix64's finaliser twice."""
    word = _finalise(position + 0x9E3779B97F4A7C15 * (seed + 1))
    return _finalise(word + seed) >> 1


def _finalise(word: int) -> int:
    mask = (1 << 64) - 1
    word &= mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)
