"""Which pictures a step uses: a pure function of the shards' sizes, the seed and the step. No state, no torch.

Training is one endless sequence of positions 0, 1, 2, ... Step s takes positions [s·batch, (s+1)·batch); position p
lies in epoch p // N. Within an epoch the shards are permuted, their pictures laid end to end, and each window of this
sequence is permuted by itself, so that only the shards under one window are open at once. The ranks of a step take
consecutive slices of its positions: the global order depends neither on the number of ranks, nor on micro-batches or
data workers, and any step can be computed without those before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_SHARDS, _WINDOW = 0, 1  # keep the two kinds of permutation of one (seed, epoch) apart
_KEPT_WINDOWS = 4


def permutation(count: int, *key: int) -> Ints:
    """A permutation of range(count) that depends on ``key`` only, on every numpy version.

    It sorts raw Philox words, which numpy promises never to change; ``Generator.permutation`` may.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(words, kind="stable")


class Plan:
    """The order of training pictures.

    Args: counts, pictures in each shard; seed, of the order; window, pictures shuffled together.
    """

    def __init__(self, counts: Sequence[int] | Ints, seed: int, window: int) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        if self.total < 1 or window < 1 or seed < 0:
            raise ValueError(f"a plan needs pictures, a window and a seed >= 0, not {self.total}, {window} and {seed}")
        self.seed = seed
        self.window = min(window, self.total)
        self._first = np.cumsum(self.counts) - self.counts  # number of each shard's first picture
        self._windows: OrderedDict[tuple[int, int], Ints] = OrderedDict()

    def pictures(self, positions: Ints) -> Ints:
        """Positions of the endless sequence → numbers of pictures, each in [0, total)."""
        epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), self.total)
        windows = offsets // self.window
        pictures = np.empty_like(offsets)
        for epoch, window in sorted(set(zip(epochs.tolist(), windows.tolist()))):
            here = (epochs == epoch) & (windows == window)
            pictures[here] = self._shuffled(epoch, window)[offsets[here] - window * self.window]
        return pictures

    def offsets(self, pictures: Ints, epoch: int) -> Ints:
        """Where pictures come in an epoch, each in [0, total): ``pictures`` backwards."""
        shards = self._shards(epoch)
        start = np.empty_like(self.counts)  # of each shard among the shards laid end to end
        start[shards] = np.cumsum(self.counts[shards]) - self.counts[shards]
        shard = np.searchsorted(self._first + self.counts, pictures, side="right")
        windows = (start[shard] + pictures - self._first[shard]) // self.window
        offsets = np.empty_like(windows)
        for window in np.unique(windows).tolist():
            shuffled, here = self._shuffled(epoch, window), windows == window
            order = np.argsort(shuffled)
            offsets[here] = window * self.window + order[np.searchsorted(shuffled, pictures[here], sorter=order)]
        return offsets

    def _shards(self, epoch: int) -> Ints:
        """The shards in the order of an epoch."""
        return permutation(len(self.counts), self.seed, epoch, _SHARDS)

    def _shuffled(self, epoch: int, window: int) -> Ints:
        """The pictures of one window in their order; the last few windows are kept."""
        key = (epoch, window)
        if key not in self._windows:
            self._windows[key] = self._shuffle(epoch, window)
            if len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return self._windows[key]

    def _shuffle(self, epoch: int, window: int) -> Ints:
        start = window * self.window
        size = min(self.window, self.total - start)
        shards = self._shards(epoch)
        ends = np.cumsum(self.counts[shards])
        places = start + permutation(size, self.seed, epoch, _WINDOW, window)
        which = np.searchsorted(ends, places, side="right")
        within = places - (ends[which] - self.counts[shards[which]])
        return self._first[shards[which]] + within


@dataclass(frozen=True)
class Share:
    """What one rank takes of each step: ``batch`` is global, ``device_batch`` is what it computes at once."""

    batch: int
    device_batch: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.world * self.device_batch):
            raise ValueError(
                f"a batch of {self.batch} does not divide among {self.world} devices in pieces of {self.device_batch}"
            )

    @property
    def accumulation(self) -> int:
        """Micro-batches in a step of one rank."""
        return self.batch // (self.world * self.device_batch)

    def positions(self, step: int, micro: int) -> Ints:
        """The positions of one micro-batch of this rank, (device_batch,)."""
        start = step * self.batch + (self.rank * self.accumulation + micro) * self.device_batch
        return np.arange(start, start + self.device_batch, dtype=np.int64)

    def steps(self, start: int, stop: int) -> Iterator[Ints]:
        """The positions of every micro-batch of this rank from step ``start`` up to step ``stop``."""
        for step in range(start, stop):
            for micro in range(self.accumulation):
                yield self.positions(step, micro)


def evaluation_share(pictures: Ints, batch: int, rank: int = 0, world: int = 1) -> Ints:
    """This rank's part of ``pictures`` in batches of ``batch``: equally long on every rank, filled up with -1.

    Batch b of rank r is the (b·world + r)-th slice, so that the slices, and with them the routing groups, are the same
    on any number of ranks, and over all ranks every picture counts once.
    """
    rounds = -(-len(pictures) // (batch * world))
    padded = np.full(rounds * batch * world, -1, dtype=np.int64)
    padded[: len(pictures)] = pictures
    return padded.reshape(rounds, world, batch)[:, rank].reshape(-1)
