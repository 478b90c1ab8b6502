"""Which λ a few-shot score is reported at.

    fixed    one number, 1024: what big_vision does
    best     one λ for all data sets and draws, with the best mean rank of *test* accuracy: what V-MoE does
    heldout  for each draw, by cross-validation inside its own few training examples

With one data set "best" is simply the λ that does best on its test set: comparable with published numbers, and
optimistic. "heldout" never sees the test set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moe_bench.probe.ridge import L2_GRID, fit

FOLDS = 5


def best_rank(accuracies: Sequence[Sequence[float]] | Tensor) -> int:
    """Column of ``accuracies`` (tasks, L) with the best mean rank over tasks; equal ranks go to the larger λ."""
    table = np.asarray(accuracies, dtype=np.float64)
    ranks = np.argsort(np.argsort(table, axis=1, kind="stable"), axis=1).mean(axis=0)
    return int(len(ranks) - 1 - np.argmax(ranks[::-1]))


def heldout(x: Tensor, y: Tensor, l2: Sequence[float] = L2_GRID) -> float:
    """The λ with the best accuracy under cross-validation of the training examples ``x`` (N, D), ``y`` (N,).

    min(5, examples of the largest class) folds, each with its share of every class: leaving out one example of one
    class would tilt the bias against it. Statistics are of the remaining examples. Equal accuracies go to the larger λ.

    Raises:
        ValueError: one example a class; there is nothing to hold out.
    """
    place = np.zeros(len(y), dtype=np.int64)  # 0, 1, ... among the examples of the same class
    for label in np.unique(y):
        of_class = np.flatnonzero(np.asarray(y) == label)
        place[of_class] = np.arange(len(of_class))
    folds = min(FOLDS, int(place.max()) + 1)
    if folds < 2:
        raise ValueError("one example a class: there is nothing to hold out; use another λ policy or more shots")
    classes, right = int(y.max()) + 1, torch.zeros(len(l2), dtype=torch.float64)
    for fold in range(folds):
        out = torch.from_numpy(place % folds == fold)
        right += fit(x[~out], y[~out], classes).accuracy(x[out], y[out], l2).cpu() * int(out.sum())
    return l2[len(l2) - 1 - int(right.flip(0).argmax())]
