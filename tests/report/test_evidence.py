from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from moe_bench.report.evidence import ALPHA, Differences, Evidence, holm, seeds_needed, weigh


def drawn(rng: np.random.Generator, effect: float, seeds: int, settings: int = 1, shared: float = 0.0) -> Differences:
    """Normal differences of spread 1, of which seeds share a part over settings."""
    of_seed = shared * rng.normal(size=seeds)
    return {(f"s{s}", k): effect + of_seed[k] + rng.normal() for s in range(settings) for k in range(seeds)}


def test_p_is_that_of_the_paired_t_test_and_the_interval_agrees() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, 1, 7), rng.normal(0, 1, 7)
    found = evidence({("one", seed): first[seed] - second[seed] for seed in range(7)})
    expected = ttest_rel(first, second)
    assert found.half is not None
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert (found.effect - found.half, found.effect + found.half) == pytest.approx((low, high), rel=1e-9)


def evidence(differences: Differences) -> Evidence:
    found = weigh(differences)
    assert found is not None
    return found


def below(p: float | None) -> bool:
    assert p is not None
    return p < ALPHA


@pytest.mark.parametrize(("settings", "shared"), [(1, 0.0), (6, 2.0)])
def test_false_alarms_are_about_five_in_a_hundred_though_settings_share_their_seed(
    settings: int, shared: float
) -> None:
    rng = np.random.default_rng(1)
    found = [evidence(drawn(rng, 0.0, 4, settings, shared)) for _ in range(2000)]
    rate = np.mean([below(e.p) for e in found])
    assert rate == pytest.approx(ALPHA, abs=0.015)


def test_differences_at_the_margin_are_taken_for_small_in_five_of_a_hundred() -> None:
    rng = np.random.default_rng(2)
    found = [evidence(drawn(rng, 10.0, 5)) for _ in range(2000)]
    assert np.mean([below(e.p_within(10.0)) for e in found]) == pytest.approx(ALPHA, abs=0.015)


@pytest.mark.parametrize("margin", [0.0, 0.5, 10.0])
def test_differences_at_the_margin_are_taken_for_larger_in_five_of_a_hundred(margin: float) -> None:
    rng = np.random.default_rng(4)
    found = [evidence(drawn(rng, margin, 5)) for _ in range(2000)]
    assert np.mean([below(e.p_beyond(margin)) for e in found]) == pytest.approx(ALPHA, abs=0.015)


def test_the_seeds_that_are_needed_find_the_effect_in_eighty_of_a_hundred() -> None:
    rng = np.random.default_rng(3)
    needed = seeds_needed([1.0])
    assert needed == 10  # textbook: 9.94 pairs for an effect of one standard deviation
    found = [evidence(drawn(rng, 1.0, needed)) for _ in range(2000)]
    assert np.mean([below(e.p) for e in found]) == pytest.approx(0.8, abs=0.03)
    assert seeds_needed([0.01]) is None


@pytest.mark.parametrize(("effect", "spread"), [(0.0, 5.0), (2.0, 5.0), (4.0, 2.0)])
def test_the_seeds_that_are_needed_show_three_differences_to_be_small_in_eighty_of_a_hundred(
    effect: float, spread: float
) -> None:
    """Three routers, so that their differences share noise; the first is ahead of both others."""
    margin, rng = 6.2, np.random.default_rng(5)
    needed = seeds_needed([(margin + side * e) / spread for e in (effect, effect, 0.0) for side in (-1, 1)], sides=1)
    assert needed is not None

    def all_within() -> bool:
        first, *others = rng.normal(0, spread / 2**0.5, (3, needed))
        compared = [first + effect - others[0], first + effect - others[1], others[0] - others[1]]
        return all(below(evidence({("a", k): d for k, d in enumerate(ds)}).p_within(margin)) for ds in compared)

    assert 0.77 < np.mean([all_within() for _ in range(1000)]) < 0.93


@pytest.mark.parametrize(
    "differences",
    [
        {("a", 0): 1.0, ("b", 0): 1.1, ("c", 0): 0.9},  # one seed
        {("a", 0): 1.0, ("a", 1): 1.1},  # two pairs
        {("a", 0): 0.5, ("a", 1): 0.5, ("a", 2): 0.5},  # no spread
        {("a", 0): 0.3, ("a", 1): 0.1 + 0.2, ("a", 2): 0.3},  # none but rounding
    ],
)
def test_too_little_gives_no_test(differences: dict[tuple[str, int], float]) -> None:
    found = evidence(differences)
    assert (found.p, found.p_within(1.0)) == (None, None)


def test_no_pair_is_no_evidence() -> None:
    assert weigh({}) is None


def test_only_seeds_with_the_same_settings_are_averaged() -> None:
    full = {(setting, seed): 1.0 + 0.1 * seed for setting in "abc" for seed in (0, 1)}
    found = evidence(full | {("a", 2): 50.0})
    assert (found.seeds, found.pairs, found.left_out) == (2, 6, 1)
    assert found.effect == pytest.approx(1.05)


def test_the_largest_block_is_found_where_settings_have_other_seeds() -> None:
    """By brute force over all sets of seeds."""
    rng = np.random.default_rng(6)
    for _ in range(50):
        have = {(setting, seed): 0.1 * seed for setting in "abcd" for seed in range(5) if rng.random() < 0.5}
        sets = [{k for k in range(5) if mask >> k & 1} for mask in range(1, 32)]
        sizes = [len(seeds) * sum(all((s, k) in have for k in seeds) for s in "abcd") for seeds in sets]
        several = [size for seeds, size in zip(sets, sizes) if len(seeds) > 1 and size]
        found = weigh(have)
        assert (found.pairs if found else 0) == max(several or sizes)
    split = {("a", k): 1.0 + k for k in (0, 1)} | {(s, k): 1.0 + k for s in "bc" for k in (2, 3, 4, 5)}
    found = weigh(split | {(s, k): 1.0 for s in "de" for k in (0, 1)})
    assert found is not None
    assert (found.seeds, found.pairs, found.left_out) == (4, 8, 6)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
