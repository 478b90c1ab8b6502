"""Requests → a batch. A map-style data set that reads pictures by position, in any process and in any order.

A request is (picture, position): the number of a picture, or -1 for padding, and its place in the training sequence, which
seeds its augmentation. So what a batch holds depends on neither the worker that makes it nor the batches before it.

B pictures a batch, S pixels a side, L labels a picture.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from moe_bench.data.decode import MAX_PIXELS, Transform, decode, to_range
from moe_bench.data.index import ShardIndex
from moe_bench.errors import DataError

OPEN_SHARDS = 64
Request = tuple[int, int]
Batch = dict[str, Tensor]


class PictureReader:
    """The bytes of pictures, read from where the index says. Keeps a few shards open, each process its own."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._ends = np.cumsum(index.counts)
        self._open: OrderedDict[int, int] = OrderedDict()  # shard → file descriptor
        self._process = os.getpid()

    def __call__(self, picture: int) -> bytes:
        size, offset = int(self.index.sizes[picture]), int(self.index.offsets[picture])
        data = os.pread(self._descriptor(picture), size, offset)
        if len(data) != size:
            raise DataError(
                f"{self.index.name(picture)}: {len(data):,} of {size:,} bytes are there; "
                "the shard has changed since it was indexed, start again"
            )
        return data

    def _descriptor(self, picture: int) -> int:
        if self._process != os.getpid():  # a forked worker must not close its parent's files
            self._open, self._process = OrderedDict(), os.getpid()
        shard = int(np.searchsorted(self._ends, picture, side="right"))
        if shard not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = self._open_shard(shard)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _open_shard(self, shard: int) -> int:
        try:
            return os.open(self.index.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{self.index.shards[shard]} cannot be opened any more: {error}") from error

    def __getstate__(self) -> dict[str, ShardIndex]:
        return {"index": self.index}

    def __setstate__(self, state: dict[str, ShardIndex]) -> None:
        self.__init__(state["index"])  # type: ignore[misc]

    def __del__(self) -> None:
        if self._process == os.getpid():
            for descriptor in self._open.values():
                os.close(descriptor)


class Pictures(Dataset[Batch]):
    """Batches of transformed pictures by request.

    Args: transform, RGB picture → uint8 (3, S, S); seed, of the augmentation, None if the transform draws nothing.
    """

    def __init__(
        self,
        index: ShardIndex,
        transform: Transform,
        image_size: int,
        seed: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.index, self.transform, self.image_size = index, transform, image_size
        self.seed, self.max_pixels = seed, max_pixels
        self._read = PictureReader(index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, request: Request) -> Batch:
        return self.__getitems__([request])

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        """{"image": float32 (B, 3, S, S) in [-1, 1], "label": int64 (B, L), "valid": bool (B,), "index": int64 (B,)}"""
        pictures = torch.tensor([picture for picture, _ in requests], dtype=torch.int64)
        valid = pictures >= 0
        labels = torch.from_numpy(self.index.labels[pictures.clamp(min=0).numpy()]).long()
        return {
            "image": self._images(requests),
            "label": labels.masked_fill_(~valid[:, None], -1),
            "valid": valid,
            "index": pictures,
        }

    def _images(self, requests: Sequence[Request]) -> Tensor:
        images = torch.full((len(requests), 3, self.image_size, self.image_size), 127, dtype=torch.uint8)
        state = torch.get_rng_state()
        try:
            for row, (picture, position) in zip(images, requests):
                if picture >= 0:
                    row.copy_(self._image(picture, position))
        finally:
            torch.set_rng_state(state)  # with workers=0 this process also draws dropout and routing noise
        return to_range(images)

    def _image(self, picture: int, position: int) -> Tensor:
        try:
            image = decode(self._read(picture), self.max_pixels)
        except ValueError as error:
            raise DataError(f"{self.index.name(picture)} {error}") from error
        if self.seed is not None:
            torch.default_generator.manual_seed(mix(self.seed, position))
        return self.transform(image)


def mix(seed: int, position: int) -> int:
    """A well-stirred 63-bit number from (seed, position): two rounds of SplitMix64's finaliser."""
    word = _finalise(position + 0x9E3779B97F4A7C15 * (seed + 1))
    return _finalise(word + seed) >> 1


def _finalise(word: int) -> int:
    mask = (1 << 64) - 1
    word &= mask
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)
