from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from moe_bench.routing import PRESETS, Capacity, expert_choice, make_router, softmax, token_choice

from .problems import Problem, examples, problems


def numbers(stats: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in stats.items()}


def test_four_tokens_that_all_want_one_expert() -> None:
    gates = torch.tensor([[0.75, 0.25]] * 4).unsqueeze(0)
    stats = numbers(token_choice(gates, gates, k=1, capacity=2).stats())
    assert stats == pytest.approx(
        {
            "load/max": 2.0,
            "load/cv": 1.0,
            "load/dead": 0.5,
            "fill": 0.5,
            "dropped": 0.5,
            "uncovered": 0.5,
            "experts_per_token": 0.5,
            "combine_mass": 0.375,
            "gate_entropy": -0.75 * math.log(0.75) - 0.25 * math.log(0.25),
            "row_error": 0.0,
            "column_error": 0.5,
        }
    )


def test_experts_that_all_want_the_same_two_of_four_tokens() -> None:
    gates = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.1, 0.1], [0.1, 0.1]]).unsqueeze(0)
    stats = numbers(expert_choice(gates, gates, capacity=2).stats())
    assert stats["uncovered"] == pytest.approx(0.5)
    assert stats["dropped"] == 0
    assert stats["load/max"] == pytest.approx(1)
    assert stats["experts_per_token"] == pytest.approx(1)
    assert stats["combine_mass"] == pytest.approx(0.5)
    assert stats["row_error"] == pytest.approx(0.4)
    assert stats["column_error"] == pytest.approx(0.4)


def test_second_choices_that_are_dropped_leave_their_tokens_covered() -> None:
    gates = softmax(torch.tensor([[[4.0, 0, 3], [0, 4, 3], [0.0, 4, 3]]]))
    stats = numbers(token_choice(gates, gates, k=2, capacity=2).stats())
    assert stats["dropped"] == pytest.approx(1 / 6)
    assert stats["uncovered"] == 0


@examples
@given(problems())
def test_padding_is_not_counted(problem: Problem) -> None:
    affinity = softmax(problem.logits)
    for routing in (
        token_choice(affinity, affinity, problem.k, problem.capacity, mask=problem.mask),
        expert_choice(affinity, affinity, problem.capacity, problem.mask),
    ):
        stats = numbers(routing.stats())
        assert all(math.isfinite(value) for value in stats.values())
        dispatch, combine = routing.tensors()
        real = torch.ones(affinity.shape[:2], dtype=torch.bool) if problem.mask is None else problem.mask
        if real.any():
            covered = dispatch[real].any(-1).any(-1).double().mean().item()
            assert stats["uncovered"] == pytest.approx(1 - covered, abs=1e-6)
            assert stats["combine_mass"] == pytest.approx(combine[real].sum((1, 2)).mean().item(), abs=1e-6)
            assert stats["row_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_all_routers_report_scalars_without_gradient(name: str) -> None:
    router = make_router(name, 8, 4, capacity=Capacity(2.0), tokens=10)
    for value in router(torch.randn(2, 10, 8)).stats().values():
        assert value.shape == ()
        assert not value.requires_grad


def test_plans_report_how_far_their_marginals_are_off() -> None:
    x = torch.randn(1, 128, 8, generator=torch.Generator().manual_seed(0))
    stats = {name: numbers(make_router(name, 8, 4).eval()(x).stats()) for name in PRESETS if name != "soft"}
    assert stats["sinkhorn_ec"]["column_error"] < 1e-4 < stats["softmax_ec"]["column_error"]
    assert stats["sparse_ec"]["column_error"] < 1e-4 < stats["sparse_ec"]["row_error"]
    assert stats["sinkhorn_ec"]["row_error"] < 1e-4
