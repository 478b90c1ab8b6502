"""Few-shot accuracy by ridge regression, in closed form: pure linear algebra on arrays, nothing else of this package.

Axis letters: N training examples, M test examples, D features, Y classes, R eigenvectors kept, L values of λ.

    A = [(X − mean) / (std + 1e-5), 100]          (N, D+1)   statistics of the N training examples, population std
    T = 2 · one_hot(labels) − 1                   (N, Y)
    W(λ) = (AᵀA + λI)⁻¹ AᵀT                       (D+1, Y)
    prediction = argmax over Y of A_test W(λ)

The column of 100 is a bias that λ hardly touches. One eigendecomposition serves every λ: with AᵀA = V Λ Vᵀ,
W(λ) = V (Λ + λ)⁻¹ (VᵀAᵀT); with fewer examples than features the smaller AAᵀ = U Λ Uᵀ gives the same
W(λ) = AᵀU (Λ + λ)⁻¹ (UᵀT). Both read W(λ) = basis · (target / (Λ + λ)), and that is what is kept.
The procedure, constants and grid are those of the few-shot evaluators of V-MoE and big_vision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

L2_GRID = tuple(2.0**exponent for exponent in range(-10, 20))
BIAS = 100.0
_CHUNK_SCORES = 8_000_000  # scores of one chunk of test rows: 64 MB in float64


@dataclass(frozen=True)
class Ridge:
    """A fitted regression for every λ at once."""

    mean: Tensor  # (D,)
    std: Tensor  # (D,), with its 1e-5
    basis: Tensor  # (D+1, R)
    target: Tensor  # (R, Y)
    eigenvalues: Tensor  # (R,)

    def weight(self, l2: float) -> Tensor:
        """The regression matrix W(λ) (D+1, Y) on standardised features; its last row belongs to the column of 100."""
        return self.basis @ (self.target / (self.eigenvalues[:, None] + l2))

    def accuracy(self, x: ArrayLike | Tensor, y: ArrayLike | Tensor, l2: Sequence[float] = L2_GRID) -> Tensor:
        """Share of right answers on features ``x`` (M, D) with labels ``y`` (M,) for each λ: float64 (L,)."""
        features, labels = _tensor(x, self.mean), torch.as_tensor(y, device=self.mean.device)
        scaled = [self.target / (self.eigenvalues[:, None] + value) for value in l2]
        right = torch.zeros(len(l2), dtype=torch.int64, device=self.mean.device)
        rows = max(1, _CHUNK_SCORES // max(self.target.shape))
        for start in range(0, len(labels), rows):
            chunk = features[start : start + rows].to(self.mean.dtype)
            projected = _with_bias((chunk - self.mean) / self.std) @ self.basis  # (m, R)
            for i, target in enumerate(scaled):
                right[i] += ((projected @ target).argmax(1) == labels[start : start + rows]).sum()
        return right.double() / len(labels)


def fit(x: ArrayLike | Tensor, y: ArrayLike | Tensor, classes: int | None = None, *, double: bool = True) -> Ridge:
    """Fit features ``x`` (N, D) to labels ``y`` (N,) in 0 … ``classes`` − 1, on the device of ``x``.

    ``classes=None`` takes the largest label + 1. ``double=False`` computes in float32 as the reference does; there
    the small eigenvalues are noise of the size of the largest ones' rounding.

    Raises:
        ValueError: no examples, or as many features as labels do not match.
    """
    features, labels = torch.as_tensor(x), torch.as_tensor(y).long()
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(f"features (N, D) and labels (N,) wanted, got {tuple(features.shape)}, {tuple(labels.shape)}")
    features = features.to(torch.float64 if double else torch.float32)
    mean, std = features.mean(0), features.std(0, correction=0) + 1e-5
    a = _with_bias((features - mean) / std)  # (N, D+1)
    classes = int(labels.max()) + 1 if classes is None else classes
    one_hot = torch.nn.functional.one_hot(labels.to(a.device), classes)
    targets = 2 * one_hot.to(a.dtype) - 1  # (N, Y)
    if len(a) >= a.shape[1]:
        eigenvalues, basis = torch.linalg.eigh(a.T @ a)
        target = basis.T @ (a.T @ targets)
    else:
        eigenvalues, vectors = torch.linalg.eigh(a @ a.T)
        basis, target = a.T @ vectors, vectors.T @ targets
    # AᵀA has no negative eigenvalue; rounding makes some, and a small λ added to one could be a division by zero.
    return Ridge(mean, std, basis, target, eigenvalues.clamp_min(0))


def few_shot(
    train_x: ArrayLike | Tensor,
    train_y: ArrayLike | Tensor,
    test_x: ArrayLike | Tensor,
    test_y: ArrayLike | Tensor,
    l2: Sequence[float] = L2_GRID,
    *,
    double: bool = True,
) -> Tensor:
    """Test accuracy (L,) of the regression fitted to the training examples, for each λ of ``l2``.

    ``train_x`` (N, D), ``test_x`` (M, D) floats; ``train_y`` (N,), ``test_y`` (M,) integers from 0. A test label that
    no training example has counts as wrong.
    """
    return fit(train_x, train_y, double=double).accuracy(test_x, test_y, l2)


def draw(labels: ArrayLike, shots: int, seed: int) -> np.ndarray:
    """Positions of ``shots`` examples of each class: classes in order, a class in the order of its permutation.

    One generator permutes class after class, so a smaller draw of the same seed is contained in a larger one. A class
    with fewer examples gives what it has.
    """
    values = np.asarray(labels)
    generator = np.random.default_rng(seed)
    classes = range(int(values.max()) + 1)
    return np.concatenate([generator.permutation(np.flatnonzero(values == c))[:shots] for c in classes])


def _with_bias(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=BIAS)


def _tensor(x: ArrayLike | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(x, device=like.device)
