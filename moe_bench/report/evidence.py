"""What paired differences say: Student's t with the seed as the unit.

A difference belongs to a setting (two routers, a model, a capacity) and a seed. The settings of one seed share the
order of the data and the draw of the weights, so they are no independent witnesses: differences are first averaged
over settings within each seed, and the test is over these means. It answers whether new seeds would agree, on these
settings. Whether other settings would agree is another question: ``over_settings`` gives the interval with the
setting as the unit, to be read beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from moe_bench.report.interval import half_width

ALPHA = 0.05
POWER = 0.8
FEWEST_PAIRS, FEWEST_SEEDS = 3, 2
MOST_SEEDS = 50
"""A difference that needs more seeds than this is about nil against its spread."""

Differences = Mapping[tuple[str, int], float]
"""(setting, seed) → first side minus second side."""


@dataclass(frozen=True)
class Evidence:
    """The mean difference over ``seeds`` × ``settings``, all in the unit of the differences."""

    effect: float
    spread: float | None  # standard deviation of the means of the seeds; None for one seed
    half: float | None  # half of the 95 % interval over seeds
    over_settings: float | None  # the same with the setting as the unit
    seeds: int
    by_setting: dict[str, float]  # the mean over seeds of each setting
    left_out: int  # pairs outside the block of seeds that all have the same settings

    @property
    def pairs(self) -> int:
        return self.seeds * len(self.by_setting)

    @property
    def enough(self) -> bool:
        """Whether a test can be made: also not where each seed gives the very same difference."""
        return self.pairs >= FEWEST_PAIRS and self.seeds >= FEWEST_SEEDS and bool(self.spread)

    @property
    def p(self) -> float | None:
        """Of a difference as large as this in either direction, were there none. Two-sided; None: no test."""
        return 2 * _above(self.seeds - 1, abs(self.effect) / self._error) if self.enough else None

    def p_within(self, margin: float) -> float | None:
        """Of differences as small as these, were the true one as large as ``margin``: two one-sided tests."""
        return _above(self.seeds - 1, (margin - abs(self.effect)) / self._error) if self.enough else None

    def p_beyond(self, margin: float) -> float | None:
        """Of a difference as large as this in either direction, were the true one ``margin``."""
        if not self.enough:
            return None
        near, far = ((abs(self.effect) + side) / self._error for side in (-margin, margin))
        return _above(self.seeds - 1, near) + _above(self.seeds - 1, far)

    @property
    def _error(self) -> float:
        assert self.spread is not None
        return self.spread / math.sqrt(self.seeds)


def weigh(differences: Differences) -> Evidence | None:
    """None where there is no pair."""
    seeds, settings = _block(differences)
    if not settings:
        return None
    by_seed = [fmean(differences[setting, seed] for setting in settings) for seed in seeds]
    by_setting = {setting: fmean(differences[setting, seed] for seed in seeds) for setting in settings}
    spread = stdev(by_seed) if len(seeds) > 1 else None
    if spread is not None and spread <= 1e-9 * max(map(abs, by_seed)):
        spread = 0.0  # the same up to rounding
    return Evidence(
        effect=fmean(by_seed),
        spread=spread,
        half=half_width(spread, len(seeds)) if spread else None,
        over_settings=half_width(stdev(by_setting.values()), len(settings)) if len(settings) > 1 else None,
        seeds=len(seeds),
        by_setting=by_setting,
        left_out=len(differences) - len(seeds) * len(settings),
    )


def _block(differences: Differences) -> tuple[list[int], list[str]]:
    """The most pairs in which every seed has every setting: else a seed's mean would tell of its settings.

    Two seeds before one, then more pairs, then more seeds. Looked for among the fullest seeds, the seeds of each
    setting, and those that two have in common.
    """
    seeds_of: dict[str, set[int]] = {}
    settings_of: dict[int, int] = {}
    for setting, seed in differences:
        seeds_of.setdefault(setting, set()).add(seed)
        settings_of[seed] = settings_of.get(seed, 0) + 1
    fullest = sorted(settings_of, key=lambda seed: (-settings_of[seed], seed))
    own = {frozenset(seeds) for seeds in seeds_of.values()}
    tried = [fullest[:n] for n in range(1, len(fullest) + 1)] + sorted(sorted(a & b) for a in own for b in own if a & b)
    blocks = [(sorted(seeds), [s for s, have in seeds_of.items() if have.issuperset(seeds)]) for seeds in tried]
    size = [(bool(settings) and len(seeds) > 1, len(seeds) * len(settings), len(seeds)) for seeds, settings in blocks]
    return blocks[size.index(max(size))] if blocks else ([], [])


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: the chance of any false alarm among all these tests stays below the level."""
    tested = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = highest
    return adjusted


def seeds_needed(effects: Sequence[float], alpha: float = ALPHA, sides: int = 2) -> int | None:
    """Seeds by which paired t tests find all ``effects`` with 80 % power; None for more than ``MOST_SEEDS``.

    Effects are in units of their spread. Those of several tests may be missed together or not: the sum of the chances
    counts, so that it is rather a seed too many.
    """
    from scipy.special import nctdtr, stdtrit

    for n in range(2, MOST_SEEDS + 1):
        critical = stdtrit(n - 1, 1 - alpha / sides)
        if sum(nctdtr(n - 1, abs(effect) * math.sqrt(n), critical) for effect in effects) <= 1 - POWER:
            return n
    return None


def _above(freedom: int, t: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
