"""Mutual information of class and expert: against sums written out, and against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moe_bench.explain.specific import specific


def test_experts_of_one_class_each_have_all_the_information() -> None:
    labels = np.repeat(np.arange(4), 50)[:, None]
    found = specific(torch.eye(4)[labels[:, 0]] * 16, labels)
    assert found.bits == pytest.approx(2)
    assert found.of_expert.tolist() == pytest.approx([2] * 4)
    assert found.chance_bits < 0.1
    assert [found.rows_of(expert, 3) for expert in range(4)] == [[0], [1], [2], [3]]
    assert found.lift.diagonal().tolist() == pytest.approx([4] * 4)


def test_the_information_is_the_double_sum_over_classes_and_experts() -> None:
    rng = np.random.default_rng(0)
    labels, load = rng.integers(0, 5, (300, 1)), rng.random((300, 3))
    joint = np.stack([load[labels[:, 0] == k].sum(0) for k in range(5)]) / load.sum()
    expected = sum(
        joint[k, e] * math.log2(joint[k, e] / joint[k].sum() / joint[:, e].sum()) for k in range(5) for e in range(3)
    )
    assert specific(torch.from_numpy(load), labels).bits == pytest.approx(expected)


def test_experts_that_know_nothing_have_what_chance_gives() -> None:
    """Tokens of one picture go together, which chance must keep: single tokens would give a sixteenth of it."""
    rng = np.random.default_rng(1)
    load = 16 * np.eye(8)[rng.integers(0, 8, 400)]
    found = specific(torch.from_numpy(load), rng.integers(0, 20, (400, 1)))
    assert found.chance_bits == pytest.approx(19 * 7 / (2 * 400 * math.log(2)), rel=0.15)
    assert found.bits == pytest.approx(found.chance_bits, rel=0.2)


def test_an_expert_without_load_knows_nothing() -> None:
    found = specific(torch.tensor([[1.0, 0], [1, 0]]), np.array([[0], [1]]))
    assert found.of_expert.tolist() == [0, 0]
    assert found.rows_of(1, 3) == []


def test_a_picture_of_two_labels_counts_half_for_each() -> None:
    found = specific(torch.tensor([[4.0], [4.0]]), np.array([[7, 9], [9, -1]]))
    assert found.classes == [7, 9]
    assert found.joint[:, 0].tolist() == [0.25, 0.75]
