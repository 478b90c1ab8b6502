"""The few-shot protocol: data sets, draws, a λ policy → one score for each data set and number of shots.

For each draw (seed 0, 1, ...) and class, the first ``shots`` pictures of a permutation of the training split are the
training examples; the whole test split is the test. Pictures are squeezed to a square and not augmented. Only pictures
that some draw uses, and the test split, are ever encoded. Of pictures that cannot be decoded, where that is tolerated,
those of the test split count as wrong answers, and a draw goes without those among its shots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median, pstdev

import numpy as np
import torch
from torch import Tensor

from moe_bench.data.bad import Tolerance
from moe_bench.data.digits import ensure_downstream
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.loader import eval_loader
from moe_bench.data.plan import evaluation_share
from moe_bench.data.sources import split_of
from moe_bench.errors import ConfigError
from moe_bench.probe.features import Encoder, extract
from moe_bench.probe.policies import best_rank, heldout
from moe_bench.probe.ridge import L2_GRID, draw, few_shot

POLICIES = ("fixed", "best", "heldout")


@dataclass(frozen=True)
class Protocol:
    """How a score is made. Scores of different protocols do not compare."""

    shots: tuple[int, ...] = (10,)  # pictures a class
    draws: int = 3  # seeds 0 … draws − 1; the score is their mean
    policy: str = "fixed"  # see policies.py
    l2: float = 1024.0  # under "fixed"
    crop: float = 1.0  # share of the squeezed square that the centre crop keeps

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"probe.policy={self.policy}: use one of {', '.join(POLICIES)}.")
        if not self.shots or min(self.shots) < 1 or self.draws < 1:
            raise ConfigError(f"probe.shots={list(self.shots)}, probe.draws={self.draws}: both need at least 1.")
        if self.policy == "heldout" and min(self.shots) < 2:
            raise ConfigError("probe.policy=heldout holds out a part of the shots, so probe.shots must be at least 2.")


@dataclass(frozen=True)
class ProbeSet:
    """A labelled data set to probe on: pictures to draw from, pictures to judge by."""

    name: str
    train: ShardIndex
    test: ShardIndex

    def __post_init__(self) -> None:
        if self.train.labels.shape[1] > 1 or self.test.labels.shape[1] > 1:
            raise ConfigError(f"the probe needs one label a picture; {self.name} has pictures with several")


@dataclass(frozen=True)
class Score:
    """Few-shot accuracy: mean and population standard deviation over draws."""

    dataset: str
    shots: int
    accuracy: float
    std: float
    l2: float  # the median over draws where each has its own
    protocol: Protocol
    bad: int = 0  # pictures of the data set, among those drawn and the test split, that could not be decoded


def open_sets(sources: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True) -> list[ProbeSet]:
    """Folders of shards (train-* and test-* or val-*), or "digits", named after the folder.

    Raises:
        DataError: a folder or shards are missing or damaged.
        ConfigError: two sets of one name, or pictures with several labels.
    """
    sets = [_open(source, cache_dir, progress) for source in sources]
    names = [one.name for one in sets]
    if len(set(names)) < len(names):
        raise ConfigError(f"probe.sets: two data sets have the same name among {', '.join(names)}; rename a folder")
    return sets


def _open(source: str, cache_dir: str | Path | None, progress: bool) -> ProbeSet:
    folder = ensure_downstream(cache_dir, progress) if source == "digits" else Path(source).expanduser().resolve()
    train, test = (
        open_split(split_of(folder, split), cache_dir=cache_dir, progress=progress) for split in ("train", "test")
    )
    return ProbeSet(folder.name, train, test)


@dataclass(frozen=True)
class Examples:
    """A data set as features: of the pictures that some draw uses, and of the test split."""

    train_numbers: np.ndarray  # (N,) ascending
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    test_share: float  # of the test split that could be decoded
    bad: int  # pictures that could not

    def support(self, labels: np.ndarray, shots: int, seed: int) -> tuple[Tensor, Tensor]:
        """The training examples of one draw: (n, D), (n,)."""
        drawn = draw(labels, shots, seed)
        rows = torch.from_numpy(np.searchsorted(self.train_numbers, drawn[np.isin(drawn, self.train_numbers)]))
        return self.train_x[rows], self.train_y[rows]

    def accuracies(self, x: Tensor, y: Tensor, grid: Sequence[float]) -> Tensor:
        """On the test split, by the training examples ``x`` and ``y``, for each λ: (L,)."""
        return few_shot(x, y, self.test_x, self.test_y, grid) * self.test_share


@dataclass(frozen=True)
class Reader:
    """How pictures are read for the probe: each of ``world`` ranks reads its share, ``collect`` brings all together."""

    image_size: int
    batch: int = 256
    workers: int | None = None
    device: torch.device | str = "cpu"
    rank: int = 0
    world: int = 1
    collect: Callable[[Tensor], Tensor] = lambda rows: rows
    tolerance: Tolerance | None = None  # of bad pictures; None: the first one is an error
    timeout_s: float = 0  # how long a data process may take for a batch; 0: as long as it likes

    def examples(
        self, data: ProbeSet, protocol: Protocol, encode: Encoder, advance: Callable[[], None] = lambda: None
    ) -> Examples:
        labels, most = data.train.labels[:, 0], max(protocol.shots)
        drawn = np.unique(np.concatenate([draw(labels, most, seed) for seed in range(protocol.draws)]))
        numbers, train_x, train_y = self._extract(data.train, drawn, protocol, encode, advance)
        every = np.arange(len(data.test))
        tested, test_x, test_y = self._extract(data.test, every, protocol, encode, advance)
        bad = len(drawn) - len(numbers) + len(every) - len(tested)
        return Examples(numbers, train_x, train_y, test_x, test_y, len(tested) / len(every), bad)

    def _extract(
        self, index: ShardIndex, numbers: np.ndarray, protocol: Protocol, encode: Encoder, advance: Callable[[], None]
    ) -> tuple[np.ndarray, Tensor, Tensor]:
        loader = eval_loader(
            index,
            evaluation_share(numbers, self.batch, self.rank, self.world),
            image_size=self.image_size,
            resize="square",
            crop=protocol.crop,
            batch=self.batch,
            workers=self.workers,
            tolerance=self.tolerance,
            timeout_s=self.timeout_s,
        )
        found, features, labels = extract(encode, loader, self.device, advance, self.collect)
        if self.tolerance is not None:
            self.tolerance.check(index, np.setdiff1d(numbers, found.numpy()).tolist())
        return found.numpy(), features, labels


def score(
    sets: Sequence[ProbeSet],
    protocol: Protocol,
    encode: Encoder,
    reader: Reader,
    advance: Callable[[], None] = lambda: None,
) -> list[Score]:
    """One score for each data set and number of shots. ``advance`` is called after each batch of pictures."""
    grid = (protocol.l2,) if protocol.policy == "fixed" else L2_GRID
    tables: dict[tuple[str, int], list[Tensor]] = {}  # accuracies (L,) of each draw
    chosen: dict[tuple[str, int], list[int]] = {}  # place in the grid for each draw, under heldout
    bad: dict[str, int] = {}
    for data in sets:
        examples, labels = reader.examples(data, protocol, encode, advance), data.train.labels[:, 0]
        bad[data.name] = examples.bad
        for shots in protocol.shots:
            supports = [examples.support(labels, shots, seed) for seed in range(protocol.draws)]
            tables[data.name, shots] = [examples.accuracies(x, y, grid) for x, y in supports]
            if protocol.policy == "heldout":
                chosen[data.name, shots] = [grid.index(heldout(x, y)) for x, y in supports]
    for shots in protocol.shots if protocol.policy != "heldout" else ():
        ranked = torch.stack([row for (_, s), rows in tables.items() if s == shots for row in rows])
        chosen |= {key: [best_rank(ranked)] * protocol.draws for key in tables if key[1] == shots}
    scores = (_score(key, rows, chosen[key], grid, protocol) for key, rows in tables.items())
    return [replace(one, bad=bad[one.dataset]) for one in scores]


def _score(
    key: tuple[str, int], rows: list[Tensor], chosen: list[int], grid: Sequence[float], protocol: Protocol
) -> Score:
    accuracies = [float(row[place]) for row, place in zip(rows, chosen)]
    l2 = median(grid[place] for place in chosen)
    return Score(key[0], key[1], mean(accuracies), pstdev(accuracies), l2, protocol)


def batches(sets: Sequence[ProbeSet], protocol: Protocol, batch: int) -> int:
    """How often ``score`` calls ``advance``, with ``batch`` pictures at once on all ranks together."""
    total = 0
    for data in sets:
        labels, most = data.train.labels[:, 0], max(protocol.shots)
        drawn = np.unique(np.concatenate([draw(labels, most, seed) for seed in range(protocol.draws)]))
        total += -(-len(drawn) // batch) - (-len(data.test) // batch)
    return total
