"""Pictures that cannot be decoded: why, how many a run goes on without, and what it is given in their places. No torch.

A bad picture never moves the others. In training the next whole picture of the index takes its place, which depends on
the shards alone: steps, order and resume are as without it. In validation and probes its place stays empty and counts
as a wrong answer, so that a damaged copy of a set never looks better than a whole one.

P places so far, N pictures in an epoch, K bad pictures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moe_bench.data.index import ShardIndex
from moe_bench.data.plan import Ints, Plan
from moe_bench.errors import DataError

CAUSES = ("empty", "damaged", "too_large")
"""Why a picture is bad; batches and checkpoints hold the place in this list."""


class BadPicture(ValueError):
    """What is wrong with the bytes of a picture; ``cause`` is one of CAUSES."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


@dataclass(frozen=True)
class Tolerance:
    """What a run does about bad pictures: stop at the first, or ``skip`` up to ``limit``, a share of a split."""

    skip: bool = False
    limit: float = 0.001

    def check(self, index: ShardIndex, bad: Collection[int]) -> None:
        """Raises DataError if so many pictures of a split are bad that the limit is passed."""
        allowed = int(self.limit * len(index))
        if len(bad) > allowed:
            shards = Counter(os.path.basename(index.shards[index.shard_of(picture)]) for picture in bad)
            most = ", ".join(f"{shard} ({count:,})" for shard, count in shards.most_common(5))
            raise DataError(
                f"{len(bad):,} of {len(index):,} pictures cannot be decoded and data.skip_limit={self.limit:g} allows "
                f"{allowed:,}: {most}{', ...' * (len(shards) > 5)}. The first is {index.name(min(bad))}. Replace them "
                "(`moe-bench shards verify` names each), or raise data.skip_limit"
            )


class Account:
    """What training was given, to the picture: a pure function of the plan and of which pictures are bad.

    ``bad`` is picture → (cause, the picture that took its place), for those met by a data process so far.
    """

    def __init__(self, index: ShardIndex, plan: Plan) -> None:
        self.index, self.plan = index, plan
        self.bad: dict[int, tuple[int, int]] = {}
        self._offsets = lru_cache(maxsize=2)(self._offsets_among)

    def add(self, rows: Iterable[Iterable[int]]) -> None:
        """Rows (picture, cause, substitute), as in a batch under "bad" (see dataset.py)."""
        for picture, cause, substitute in rows:
            self.bad[picture] = (cause, substitute)

    def rows(self) -> list[list[int]]:
        """What ``add`` takes."""
        return [[picture, *self.bad[picture]] for picture in sorted(self.bad)]

    def times(self, places: int) -> Ints:
        """How often each bad picture, in ascending order, was due among the first ``places``: (K,)."""
        epochs, rest = divmod(places, self.plan.total)
        return epochs + (self._offsets(epochs, len(self.bad)) < rest)

    def news(self, before: int, places: int) -> list[int]:
        """The bad pictures that were due for the first time after the first ``before`` places, up to ``places``."""
        if not self.bad:
            return []
        first = (self.times(before) == 0) & (self.times(places) > 0)
        return np.array(sorted(self.bad))[first].tolist()

    def figures(self, places: int) -> dict[str, float]:
        """The rows of summary.json on the first ``places`` of training.

        data/seen (P), data/epochs (P / N), data/distinct, data/repeated (P − distinct), data/skipped (places that held
        another picture because theirs was bad) and …/<cause>, data/bad (different bad pictures).
        """
        times = self.times(places)
        by_cause = Counter[str]()
        for picture, count in zip(sorted(self.bad), times.tolist()):
            by_cause[CAUSES[self.bad[picture][0]]] += count
        distinct = self._distinct(places, times)
        return {
            "data/seen": places,
            "data/epochs": places / self.plan.total,
            "data/distinct": distinct,
            "data/repeated": places - distinct,
            "data/skipped": int(times.sum()),
            **{f"data/skipped/{cause}": by_cause[cause] for cause in CAUSES if by_cause[cause]},
            "data/bad": int((times > 0).sum()),
        }

    def by_shard(self, pictures: Iterable[int]) -> dict[str, int]:
        """data/bad/<shard>/<cause>: how many of these bad pictures are in which shard."""
        names = (
            f"data/bad/{os.path.basename(self.index.shards[self.index.shard_of(picture)])}/"
            f"{CAUSES[self.bad[picture][0]]}"
            for picture in pictures
        )
        return dict(Counter(names))

    def _distinct(self, places: int, times: Ints) -> int:
        """Different pictures among the first places: in the first epoch a substitute may come before its own turn."""
        if places >= self.plan.total:
            return self.plan.total - len(times[times > 0])
        due = [picture for picture, count in zip(sorted(self.bad), times.tolist()) if count]
        substitutes = np.unique([self.bad[picture][1] for picture in due]).astype(np.int64)
        early = int((self.plan.offsets(substitutes, 0) >= places).sum())
        return places - int(times.sum()) + early

    def _offsets_among(self, epoch: int, count: int) -> Ints:
        """Where the bad pictures, ``count`` by now, lie in an epoch: (K,)."""
        return self.plan.offsets(np.array(sorted(self.bad), dtype=np.int64), epoch)
