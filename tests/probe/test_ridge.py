"""The regression against the reference's numbers, scikit-learn's Ridge and its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_numbers import FILES
from sklearn.linear_model import Ridge as SklearnRidge

from moe_bench.probe.policies import best_rank
from moe_bench.probe.ridge import BIAS, L2_GRID, Ridge, _Judge, draw, few_shot, fit

REFERENCE = FILES["fewshot"]
TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = (REFERENCE[f"tall/{n}"] for n in ("x_train", "y_train", "x_test", "y_test"))


def problem(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return (centres[y] + 2 * rng.normal(size=(n, d)) + 3).astype(np.float32), y


def standardised(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    scaled = (x - by.mean(0)) / (by.std(0) + 1e-5)
    return np.concatenate([scaled, np.full((len(x), 1), BIAS)], axis=1)


@pytest.mark.parametrize("sub_seed", [0, 1])
@pytest.mark.parametrize(("row", "shots"), [(0, 1), (1, 5), (2, 10)])
@pytest.mark.parametrize("double", [True, False])
def test_draws_and_accuracies_are_the_references(sub_seed: int, row: int, shots: int, double: bool) -> None:
    support = draw(TRAIN_Y, shots, int(REFERENCE[f"tall.sub{sub_seed}/permute_seed"]))
    accuracy = few_shot(TRAIN_X[support], TRAIN_Y[support], TEST_X, TEST_Y, double=double)
    expected = REFERENCE[f"tall.sub{sub_seed}/accuracy"][row]
    # The reference is float32: a test example may fall the other way. Where both are, by the vector width of the
    # machine two may, and as eigenvalues that are noise are shared by all small λ, at up to ten λ.
    examples, share = (1, 0.1) if double else (2, 0.34)
    np.testing.assert_allclose(accuracy.numpy(), expected, atol=(examples + 0.01) / len(TEST_Y), rtol=0)
    assert np.mean(np.abs(accuracy.numpy() - expected) > 1e-6) <= share


@pytest.mark.parametrize(("row", "shots"), [(0, 1), (1, 5), (2, 10)])
def test_the_best_penalty_is_that_of_the_references_own_table(row: int, shots: int) -> None:
    """V-MoE's policy, over both draws, from their accuracies and from ours."""
    seeds = [int(REFERENCE[f"tall.sub{sub_seed}/permute_seed"]) for sub_seed in (0, 1)]
    supports = [draw(TRAIN_Y, shots, seed) for seed in seeds]
    ours = torch.stack([few_shot(TRAIN_X[rows], TRAIN_Y[rows], TEST_X, TEST_Y) for rows in supports])
    theirs = [REFERENCE[f"tall.sub{sub_seed}/accuracy"][row] for sub_seed in (0, 1)]
    assert best_rank(ours) == best_rank(theirs)


@pytest.mark.parametrize(
    ("l2", "name", "atol"),
    # Float32 eigenvalues beside the bias's 1.2e6 are right to about 0.1: the reference's small λ are that imprecise.
    [(2.0**-10, "0.000976562", 5e-4), (1.0, "1", 5e-4), (1024.0, "1024", 2e-5), (2.0**19, "524288", 2e-5)],
)
def test_weights_are_the_references(l2: float, name: str, atol: float) -> None:
    ridge = fit(TRAIN_X, TRAIN_Y)
    weight = ridge.weight(l2).numpy()
    np.testing.assert_allclose(weight, REFERENCE[f"tall.all.l2={name}/weight"], atol=atol, rtol=0)
    accuracy = ridge.accuracy(TEST_X, TEST_Y, [l2]).item()
    assert accuracy == pytest.approx(float(REFERENCE[f"tall.all.l2={name}/accuracy"]), abs=1.01 / len(TEST_Y))
    np.testing.assert_allclose(ridge.mean.numpy(), REFERENCE["tall.all/mean"][0], atol=1e-6)
    np.testing.assert_allclose(ridge.std.numpy(), REFERENCE["tall.all/std"][0], atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40), (20, 19)])
@pytest.mark.parametrize("l2", [1e-3, 1.0, 1024.0])
def test_weights_are_scikit_learns_with_few_and_with_many_examples(n: int, d: int, l2: float) -> None:
    x, y = problem(n, d, 4)
    targets = 2.0 * np.eye(4)[y] - 1
    oracle = SklearnRidge(alpha=l2, fit_intercept=False, solver="svd").fit(standardised(x.astype(float), x), targets)
    np.testing.assert_allclose(fit(x, y).weight(l2).numpy(), oracle.coef_.T, atol=1e-6)


def test_accuracy_is_that_of_scikit_learns_predictions() -> None:
    (x, y), (test_x, test_y) = problem(50, 8, 5), problem(400, 8, 5, seed=1)
    oracle = SklearnRidge(alpha=4.0, fit_intercept=False).fit(standardised(x, x), 2.0 * np.eye(5)[y] - 1)
    expected = np.mean(oracle.predict(standardised(test_x, x)).argmax(1) == test_y)
    assert few_shot(x, y, test_x, test_y, [4.0]).item() == pytest.approx(expected)
    assert 0.25 < expected < 1


def by_definition(ridge: Ridge, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Accuracy for each λ from all scores in float64."""
    a = (torch.from_numpy(x).double() - ridge.mean) / ridge.std
    a = torch.nn.functional.pad(a, (0, 1), value=BIAS)
    scores = [a @ ridge.weight(l2) for l2 in L2_GRID]
    return [np.mean(score.argmax(1).numpy() == y) for score in scores]


@pytest.mark.parametrize(("n", "d"), [(90, 20), (30, 70)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 4.0])
def test_answers_are_those_of_float64_whatever_the_spectrum(n: int, d: int, decay: float) -> None:
    """With correlated features from many to few directions, uneven classes, and means far above the deviations."""
    turned = np.linalg.qr(np.random.default_rng(5).normal(size=(d, d)))[0]
    shape = np.arange(1, d + 1)[:, None] ** -decay * turned
    (x, y), (test_x, test_y) = problem(n, d, 7), problem(400, d, 7, seed=1)
    x, test_x = ((rows @ shape + 100).astype(np.float32) for rows in (x, test_x))
    ridge = fit(x[3:], y[3:])
    np.testing.assert_allclose(ridge.accuracy(test_x, test_y), by_definition(ridge, test_x, test_y), atol=1e-12)


def test_what_is_close_in_float32_is_judged_in_float64() -> None:
    """Test pictures moved to within a billionth of the line between two classes, to the right side or the wrong one."""
    (x, y), (test_x, test_y) = problem(80, 12, 2), problem(500, 12, 2, seed=1)
    ridge = fit(x, y)
    weight = ridge.weight(16.0)
    *across, bias = (weight[:, 1] - weight[:, 0]).tolist()
    across = np.array(across)
    a = (test_x.astype(np.float64) - ridge.mean.numpy()) / ridge.std.numpy()
    aim = 1e-9 * (2 * (np.arange(500) % 3 == 0) - 1)  # above 0: class 1
    a += ((aim - a @ across - BIAS * bias) / (across @ across))[:, None] * across
    close = a * ridge.std.numpy() + ridge.mean.numpy()
    expected = np.mean((aim > 0) == test_y)
    assert ridge.accuracy(close, test_y, [16.0]).item() == pytest.approx(expected, abs=1e-12)


def test_fewer_products_than_penalties_are_made() -> None:
    ridge = fit(*problem(200, 60, 5))
    assert ridge.products() < len(L2_GRID) // 2
    assert ridge.products([1024.0]) == 1
    assert _Judge.of(ridge, L2_GRID).weights.shape == (60, 5 * ridge.products())


def test_where_torch_may_round_float32_products_they_are_made_in_float64() -> None:
    (x, y), (test_x, test_y) = problem(50, 8, 5), problem(101, 8, 5, seed=1)
    ridge, before = fit(x, y), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert _Judge.of(ridge, L2_GRID).weights.dtype == torch.float64
        np.testing.assert_allclose(ridge.accuracy(test_x, test_y), by_definition(ridge, test_x, test_y), atol=1e-12)
    finally:
        torch.set_float32_matmul_precision(before)


def test_one_class_is_always_right_and_unknown_classes_never() -> None:
    x, _ = problem(20, 6, 4)
    assert few_shot(x, np.zeros(20, dtype=int), x, np.zeros(20, dtype=int)).tolist() == [1.0] * len(L2_GRID)
    assert few_shot(x, np.arange(20) % 4, x, np.full(20, 9)).tolist() == [0.0] * len(L2_GRID)


def test_accuracy_does_not_depend_on_how_the_test_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (test_x, test_y) = problem(50, 8, 5), problem(101, 8, 5, seed=1)
    whole = few_shot(x, y, test_x, test_y)
    monkeypatch.setattr("moe_bench.probe.ridge._CHUNK_SCORES", 64)
    assert torch.equal(few_shot(x, y, test_x, test_y), whole)
    assert whole.shape == (len(L2_GRID),)


def test_a_test_class_without_training_examples_counts_as_wrong() -> None:
    x, y = problem(40, 8, 4)
    seen = y < 3
    full = few_shot(x[seen], y[seen], x[seen], y[seen], [1.0]).item()
    assert few_shot(x[seen], y[seen], x, y, [1.0]).item() == pytest.approx(full * 0.75)


def test_a_constant_feature_does_no_harm() -> None:
    x, y = problem(40, 8, 4)
    padded = np.concatenate([x, np.full((40, 1), 7.0, dtype=np.float32)], axis=1)
    assert torch.equal(few_shot(padded, y, padded, y), few_shot(x, y, x, y))


def test_draws_are_nested_class_by_class_and_of_the_seed() -> None:
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2, 1, 0, 0, 2])
    one, three = draw(labels, 1, seed=7), draw(labels, 3, seed=7)
    assert list(labels[three]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(three[[0, 3, 6]]) == list(one)
    assert len(set(three)) == 9
    assert list(draw(labels, 4, seed=7)[labels[draw(labels, 4, seed=7)] == 1]) == list(three[3:6])
    assert any(list(draw(labels, 3, seed=s)) != list(three) for s in range(3))


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        fit(np.zeros((3, 2)), np.zeros(4, dtype=int))
