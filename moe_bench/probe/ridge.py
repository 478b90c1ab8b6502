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

The cost of a score is its products with all test rows, one for each λ. But the scores of all λ are combinations of few
matrices: 1/(Λ + λ), (L, R), has a numerical rank K well below L (7 to 16 of 30 for spectra from flat to 1/i²). So only
K products are made, in float32, with a bound on their error; a test row whose right class leads or trails by less than
that is judged again in float64. What is told are the answers of float64.
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
_CHUNK_SCORES = 8_000_000  # of one product with a chunk of test rows: 32 MB in float32
_PIECE_SCORES = 1_000_000  # of all λ at once: 4 MB
_RANK_TOLERANCE = 2.0**-14  # of singular values; coarser: fewer products, but more test rows for float64
_TINY = 1e-300


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
        device, classes = self.mean.device, self.target.shape[1]
        features, labels = _tensor(x, self.mean), torch.as_tensor(y, device=device).long()
        judge = _Judge.of(self, l2)
        right = torch.zeros(len(l2), dtype=torch.int64, device=device)
        rows = max(1, _CHUNK_SCORES // max(judge.weights.shape))
        for start in range(0, len(labels), rows):
            known = labels[start : start + rows] < classes
            chunk = features[start : start + rows][known].double()
            right += judge.right((chunk - self.mean) / self.std, labels[start : start + rows][known])
        return right.double() / len(labels)

    def products(self, l2: Sequence[float] = L2_GRID) -> int:
        """K, the matrix products with all test rows that ``accuracy`` makes."""
        return _Judge.of(self, l2).mix.shape[1]


@dataclass(frozen=True)
class _Judge:
    """Right answers for all L values of λ from K products, in float32, and what is close in float64.

    Up to a positive factor of each λ and to what all classes share, the scores of features X are
    X W(λ_i) + bias_i = Σ_k mix[i, k] · X weights[k] + bias[i]. Pieces of them are made so that they stay in the cache.
    """

    basis: Tensor  # (D+1, R)
    target: Tensor  # (R, Y)
    penalised: Tensor  # (L, R), Λ + λ
    weights: Tensor  # (D, K·Y), float32
    mix: Tensor  # (L, K), float32
    bias: Tensor  # (L, Y), float32: of the column of 100
    error: Tensor  # (L,), of the difference of two scores, for features of length 1

    @classmethod
    def of(cls, ridge: Ridge, l2: Sequence[float]) -> _Judge:
        basis, target = ridge.basis.double(), ridge.target.double()
        target = target - target.mean(1, keepdim=True)
        lengths = basis.norm(dim=0)  # of columns that are orthogonal to each other
        size = (lengths * target.norm(dim=1)).clamp_min(_TINY)  # (R,), what each eigenvector counts in W
        unit = target / size[:, None]
        penalised = ridge.eigenvalues.double() + basis.new_tensor(l2)[:, None]
        shrunk = size / penalised
        shrunk = shrunk / shrunk.norm(dim=1, keepdim=True).clamp_min(_TINY)  # (L, R)
        mix, factors = _low_rank(shrunk)
        bias = BIAS * (shrunk * basis[-1]) @ unit

        dtype = _fast_and_known()
        fast = basis[:-1].to(dtype)
        weights = torch.stack([fast @ (unit * factor[:, None]).to(dtype) for factor in factors], 1)  # (D, K, Y)
        missed = (shrunk - mix @ factors).square() @ (unit * lengths[:, None]).square()  # (L, Y)
        longest = weights.norm(dim=0).amax(1).double()  # (K,)
        rounded = (2 * len(basis) + len(factors)) ** 0.5 * (mix.abs() @ longest) + bias.abs().amax(1)
        error = 2 * (missed.amax(1).sqrt() + torch.finfo(dtype).eps * rounded)
        return cls(basis, target, penalised, weights.flatten(1), mix.to(dtype), bias.to(dtype), error)

    def right(self, x: Tensor, labels: Tensor) -> Tensor:
        """How many rows of ``x`` (m, D) score highest where their ``labels`` (m,) say, for each λ: int64 (L,)."""
        products = (x.to(self.weights.dtype) @ self.weights).view(len(x), self.mix.shape[1], self.bias.shape[1])
        rows = max(1, _PIECE_SCORES // self.bias.numel())
        lead = torch.cat([self._lead(*piece) for piece in zip(products.split(rows), labels.split(rows))])  # (m, L)
        clear = lead.abs() > (1 + x.norm(dim=1, keepdim=True)) * self.error
        row, place = (~clear).nonzero(as_tuple=True)
        won = self._wins(_with_bias(x[row]), labels[row], place)
        return (clear & (lead > 0)).sum(0).index_add_(0, place, won.long())

    def _lead(self, products: Tensor, labels: Tensor) -> Tensor:
        """Score of the right class over the best other one (m, L); below 0: a wrong answer."""
        bias, mix = (one.expand(len(products), -1, -1) for one in (self.bias, self.mix))
        scores = torch.baddbmm(bias, mix, products)  # (m, L, Y)
        places = labels.view(-1, 1, 1).expand(-1, len(self.mix), 1)
        own = scores.gather(2, places).squeeze(2)
        return own - scores.scatter_(2, places, -torch.inf).amax(2)

    def _wins(self, a: Tensor, labels: Tensor, place: Tensor) -> Tensor:
        """Whether each row of ``a``, with the λ at its own place, scores highest at its label, in float64: bool."""
        return ((a @ self.basis / self.penalised[place]) @ self.target).argmax(1) == labels


def _low_rank(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix`` (L, R) ≈ mix (L, K) @ factors (K, R); the columns of ``mix`` are orthonormal, so it adds no error."""
    mix, sizes, factors = torch.linalg.svd(matrix, full_matrices=False)
    kept = sizes > _RANK_TOLERANCE * sizes[0]
    return mix[:, kept], sizes[kept, None] * factors[kept]


def _fast_and_known() -> torch.dtype:
    """float32, or float64 where torch may compute float32 products with fewer digits."""
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64


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
    labels = labels.to(a.device)
    if len(a) >= a.shape[1]:
        eigenvalues, basis = torch.linalg.eigh(a.T @ a)
        target = basis.T @ _times_targets(a, labels, classes)
    else:
        eigenvalues, vectors = torch.linalg.eigh(a @ a.T)
        basis, target = a.T @ vectors, _times_targets(vectors, labels, classes)
    # AᵀA has no negative eigenvalue; rounding makes some, and a small λ added to one could be a division by zero.
    return Ridge(mean, std, basis, target, eigenvalues.clamp_min(0))


def _times_targets(a: Tensor, labels: Tensor, classes: int) -> Tensor:
    """aᵀT (R, Y) for ``a`` (N, R), by adding up the rows of each class."""
    of_class = a.new_zeros(classes, a.shape[1]).index_add_(0, labels, a)
    return (2 * of_class - a.sum(0)).T


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
    by_class = np.split(np.argsort(values, kind="stable"), np.cumsum(np.bincount(values))[:-1])
    return np.concatenate([generator.permutation(positions)[:shots] for positions in by_class])


def _with_bias(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=BIAS)


def _tensor(x: ArrayLike | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(x, device=like.device)
