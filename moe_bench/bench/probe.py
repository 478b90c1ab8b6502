"""The few-shot probe's regressions against the matrix products in them and against scikit-learn.

The yardstick are the products that a probe cannot do without, in float32, each draw with examples of its own:

    AᵀA (D, D)          once a draw, for an eigendecomposition or a Cholesky factor
    test · W (M, Y)     for each λ, since its answers are the largest of its scores

The second are fewer than there are λ where the scores of one λ are combinations of those of others, as in
``probe/ridge.py``: both counts are timed. N training examples, M test examples, D features, Y classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from moe_bench.bench.cases import ProbeCase
from moe_bench.bench.machine import clock, out_of_memory_told, peak_bytes
from moe_bench.bench.results import EACH, FEW, OURS, OURS_FIXED, SKLEARN, ProbeTimes
from moe_bench.bench.timing import Call, timed_rounds
from moe_bench.probe.ridge import BIAS, L2_GRID, few_shot, fit

CPU = torch.device("cpu")  # where the probe's regressions always are
FIXED = (1024.0,)
NOISE = 5.0  # of an example, over that of the centres of classes
SMALL = ProbeCase(train=200, test=200, width=64, classes=10, draws=1)

Examples = tuple[Tensor, Tensor]  # features (N, D) float32, labels (N,)


def measure(times: ProbeTimes, rounds: int, advance: Callable[[float], None]) -> None:
    """Fills ``times``, round by round. ``advance`` is told of each job."""
    case = times.case
    with out_of_memory_told(str(case)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of matrices that a small λ leaves ill-conditioned
        for job in _jobs(ProbeTimes(SMALL, times.penalties), *_examples(SMALL)).values():
            job()  # so that threads and libraries are there before anything is timed
        draws, test = _examples(case)
        jobs = _jobs(times, draws, test)
        for each in timed_rounds(jobs, rounds, warmup=0, clock=clock(CPU), between=lambda name: advance(1)):
            times.rounds.append(each)
        times.peak_bytes = peak_bytes(lambda: few_shot(*draws[0], *test), CPU)


def _jobs(times: ProbeTimes, draws: list[Examples], test: Examples) -> dict[str, Call]:
    """By name. Each leaves its accuracies for ``times.difference``."""
    found: dict[str, np.ndarray] = {}
    times.products = max(fit(*draw).products(L2_GRID) for draw in draws)

    def kept(name: str, accuracies: list[Tensor]) -> None:
        found[name] = torch.stack(accuracies).numpy()
        if len(found) == 2:
            times.difference = float(np.abs(found[OURS] - found[SKLEARN]).max())

    return {
        OURS: lambda: kept(OURS, [few_shot(*draw, *test) for draw in draws]),
        OURS_FIXED: lambda: [few_shot(*draw, *test, FIXED) for draw in draws],
        EACH: lambda: _products(times.case, draws, test, len(L2_GRID)),
        FEW: lambda: _products(times.case, draws, test, times.products or 0),
        SKLEARN: lambda: kept(SKLEARN, [_scikit_learn(draw, test, times.case.classes) for draw in draws]),
    }


def _products(case: ProbeCase, draws: list[Examples], test: Examples, count: int) -> None:
    """AᵀA and ``count`` products of all test rows with weights at once, for each draw, into memory that is ready."""
    weights, scores = torch.randn(case.width, case.classes), torch.empty(case.test, case.classes)
    for x, _ in draws:
        x.T @ x
        for _ in range(count):
            torch.mm(test[0], weights, out=scores)


def _scikit_learn(draw: Examples, test: Examples, classes: int) -> Tensor:
    """Accuracy for each λ (L,), as one writes it with that package; float32 as its input."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    (x, y), (test_x, test_y) = ([part.numpy() for part in examples] for examples in (draw, test))
    scaler = StandardScaler().fit(x)
    a, test_a = (np.pad(scaler.transform(rows), ((0, 0), (0, 1)), constant_values=BIAS) for rows in (x, test_x))
    targets = 2 * np.eye(classes, dtype=np.float32)[y] - 1
    models = (Ridge(alpha=l2, fit_intercept=False).fit(a, targets) for l2 in L2_GRID)
    return torch.tensor([np.mean(model.predict(test_a).argmax(1) == test_y) for model in models])


def _examples(case: ProbeCase) -> tuple[list[Examples], Examples]:
    """Training examples of each draw, and test examples: classes around random centres, variances as 1/i, turned."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shape = torch.arange(1, case.width + 1)[:, None] ** -0.5 * torch.linalg.qr(normal(case.width, case.width))[0]
    centres = normal(case.classes, case.width)

    def examples(count: int) -> Examples:
        labels = torch.arange(count) % case.classes
        return (centres[labels] + NOISE * normal(count, case.width)) @ shape, labels

    return [examples(case.train) for _ in range(case.draws)], examples(case.test)
