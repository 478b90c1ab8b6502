"""How λ is chosen, and from what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moe_bench.probe.policies import best_rank, heldout
from moe_bench.probe.ridge import L2_GRID, few_shot, fit


def test_the_best_rank_is_the_mean_over_tasks_and_not_the_mean_accuracy() -> None:
    accuracies = [[0.90, 0.10, 0.20], [0.30, 0.31, 0.32], [0.30, 0.31, 0.32]]
    assert best_rank(accuracies) == 2
    assert np.argmax(np.mean(accuracies, axis=0)) == 0


def test_equal_ranks_go_to_the_larger_penalty() -> None:
    assert best_rank([[0.5, 0.5, 0.5]]) == 2
    assert best_rank([[0.1, 0.2], [0.2, 0.1]]) == 1


def noisy(seed: int, shots: int = 10, d: int = 60, noise: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), shots)
    centres = np.random.default_rng(7).normal(size=(4, d))
    return torch.from_numpy(centres[y] + noise * rng.normal(size=(len(y), d))), torch.from_numpy(y)


@pytest.mark.parametrize("seed", range(4))
def test_heldout_is_cross_validation_over_balanced_folds(seed: int) -> None:
    """Written out again with a regression for each fold and λ."""
    x, y = noisy(seed)
    right = np.zeros(len(L2_GRID))
    for fold in range(5):
        out = torch.arange(len(y)) % 5 == fold  # the classes' blocks of ten begin at multiples of five
        for i, l2 in enumerate(L2_GRID):
            right[i] += few_shot(x[~out], y[~out], x[out], y[out], [l2]).item() * int(out.sum())
    expected = L2_GRID[len(L2_GRID) - 1 - int(np.argmax(right[::-1]))]
    assert heldout(x, y) == expected


def test_heldout_comes_close_to_the_best_penalty_without_seeing_the_test() -> None:
    gaps, naive = [], []
    for seed in range(10):
        x, y = noisy(seed)
        test_x, test_y = noisy(1000 + seed, shots=200)
        ridge = fit(x, y)
        accuracies = ridge.accuracy(test_x, test_y)
        best = float(accuracies.max())
        gaps.append(best - ridge.accuracy(test_x, test_y, [heldout(x, y)]).item())
        naive.append(best - float(accuracies[0]))
    assert np.mean(gaps) < 0.03
    assert np.mean(gaps) < np.mean(naive)


def test_heldout_works_with_two_shots_and_uneven_classes() -> None:
    x, y = noisy(0, shots=2)
    assert heldout(x, y) in L2_GRID
    assert heldout(x[:-1], y[:-1]) in L2_GRID


def test_one_shot_has_nothing_to_hold_out() -> None:
    x, y = noisy(0, shots=1)
    with pytest.raises(ValueError, match="nothing to hold out"):
        heldout(x, y)
