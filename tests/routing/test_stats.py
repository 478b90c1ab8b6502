from __future__ import annotations

import math
import operator
import re
from functools import reduce
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from moe_bench.routing import (
    PRESETS,
    Capacity,
    SoftRouting,
    expert_choice,
    make_router,
    soft,
    softmax,
    token_choice,
)
from moe_bench.routing.stats import Tally

from .problems import Problem, problems

TABLE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def numbers(stats: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in stats.items()}


def test_four_tokens_that_all_want_one_expert() -> None:
    gates = torch.tensor([[0.75, 0.25]] * 4).unsqueeze(0)
    stats = numbers(token_choice(gates, gates, k=1, capacity=2).stats())
    assert stats == pytest.approx(
        {
            "load/max": 2.0,
            "load/min": 0.0,
            "load/cv": 1.0,
            "load/dead": 0.5,
            "fill": 0.5,
            "dropped_wishes": 0.5,
            "dropped_tokens": 0.5,
            "uncovered": 0.5,
            "experts_per_token": 0.5,
            "combine_mass": 0.375,
            "gate_entropy": -0.75 * math.log(0.75) - 0.25 * math.log(0.25),
            "affinity_entropy": -0.75 * math.log(0.75) - 0.25 * math.log(0.25),
            "row_error": 0.0,
            "row_error/max": 0.0,
            "column_error": 0.5,
            "column_error/max": 0.5,
        }
    )


def test_experts_that_all_want_the_same_two_of_four_tokens() -> None:
    gates = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.1, 0.1], [0.1, 0.1]]).unsqueeze(0)
    stats = numbers(expert_choice(gates, gates, capacity=2).stats())
    assert stats["uncovered"] == pytest.approx(0.5)
    assert not any(name.startswith("dropped") for name in stats)  # nobody asked
    assert stats["load/max"] == pytest.approx(1)
    assert stats["experts_per_token"] == pytest.approx(1)
    assert stats["combine_mass"] == pytest.approx(0.5)
    assert stats["row_error"] == pytest.approx(0.4)
    assert stats["row_error/max"] == pytest.approx(0.8)
    assert stats["column_error"] == pytest.approx(0.4)


def test_second_choices_that_are_dropped_leave_their_tokens_covered() -> None:
    gates = softmax(torch.tensor([[[4.0, 0, 3], [0, 4, 3], [0.0, 4, 3]]]))
    stats = numbers(token_choice(gates, gates, k=2, capacity=2).stats())
    assert stats["dropped_wishes"] == pytest.approx(1 / 6)
    assert stats["dropped_tokens"] == stats["uncovered"] == 0


def test_a_token_that_asks_for_nobody_is_uncovered_but_not_dropped() -> None:
    plan = torch.tensor([[[1.0, 0], [0, 1], [0, 0], [1, 0]]])
    stats = numbers(token_choice(plan, plan, k=2, capacity=1, wanted=plan > 0).stats())
    assert stats["uncovered"] == pytest.approx(0.5)
    assert stats["dropped_tokens"] == pytest.approx(0.25)
    assert stats["dropped_wishes"] == pytest.approx(1 / 3)


def test_the_entropy_of_an_affinity_does_not_depend_on_what_its_rows_sum_to() -> None:
    affinity = torch.tensor([[[0.2, 0.2], [3.0, 0], [0, 0]]])
    stats = numbers(expert_choice(affinity, affinity, capacity=1).stats())
    assert stats["affinity_entropy"] == pytest.approx(math.log(2) / 3)


def test_detail_adds_the_load_of_each_expert_and_how_many_tokens_are_in_how_many_slots() -> None:
    gates = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]])
    stats = token_choice(gates, gates, k=1, capacity=2).stats(detail=True)
    assert stats["load"].tolist() == [1.5, 0.5]
    assert stats["experts_per_token/histogram"].tolist() == [0.25, 0.75, 0]
    assert stats.keys() - token_choice(gates, gates, k=1, capacity=2).stats() == {"load", "experts_per_token/histogram"}


@pytest.mark.parametrize("padded", [False, True])
def test_similarity_compares_every_two_slots_and_every_two_tokens_but_none_with_itself(padded: bool) -> None:
    same = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    mixture, share = same.T.reshape(1, 3, 3, 1), same.reshape(1, 3, 3, 1)  # slots 0 and 1 alike, so are tokens 0 and 1
    mask = torch.tensor([[True, True, True]])
    if padded:
        mixture, share = (F.pad(t, (0, 0, 0, 0, 0, 2), value=0.0) for t in (mixture, share))
        mask = F.pad(mask, (0, 2))
    stats = {name: value.sum().item() for name, value in SoftRouting(mixture, share, mask).stats(detail=True).items()}
    for name in ("dispatch_similarity", "combine_similarity"):
        assert stats[name] == pytest.approx(1 / 3)
        assert stats[f"{name}/max"] == pytest.approx(1)


def test_a_slot_mixes_as_many_tokens_as_share_it_equally() -> None:
    half = torch.tensor([0.5, 0.5, 0, 0]).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    share = torch.full((1, 4, 2, 3), 1 / 6)
    stats = numbers(SoftRouting(half, share).stats())
    assert stats["tokens_per_slot"] == pytest.approx(2)
    assert (stats["dispatch_max"], stats["dispatch_min"]) == (0.5, 0)
    assert stats["combine_max"] == stats["combine_min"] == pytest.approx(1 / 6)
    assert stats["gate_entropy"] == pytest.approx(math.log(6))


@given(problems(), st.sampled_from(["token", "expert", "soft"]))
def test_tallies_of_single_groups_add_up_to_the_tally_of_all(problem: Problem, kind: str) -> None:
    def tally(groups: slice) -> Tally:
        logits, mask = problem.logits[groups], None if problem.mask is None else problem.mask[groups]
        affinity = softmax(logits)
        if kind == "token":
            return token_choice(affinity, affinity, problem.k, problem.capacity, mask=mask).tally(detail=True)
        if kind == "expert":
            return expert_choice(affinity, affinity, problem.capacity, mask).tally(detail=True)
        generator = torch.Generator().manual_seed(0)
        return soft(problem.x[groups], torch.randn(5, 3, 2, generator=generator), mask=mask).tally(detail=True)

    whole = tally(slice(None))
    parts = [tally(slice(g, g + 1)) for g in range(len(problem.logits))]
    torch.testing.assert_close(reduce(operator.add, parts).flat(), whole.flat())
    assert torch.equal(whole.filled_from(whole.flat()).flat(), whole.flat())
    assert all(value.isfinite().all() for value in whole.figures(detail=True).values())


def test_a_router_that_computes_in_bfloat16_is_counted_right() -> None:
    gates = softmax(torch.zeros(1, 1000, 2)).bfloat16()
    stats = numbers(expert_choice(gates, gates, capacity=500).stats())
    assert (stats["uncovered"], stats["experts_per_token"], stats["fill"]) == (0.5, 1, 1)  # both take the first 500
    assert stats["column_error"] == 0


def documented(kind: str, detail: bool) -> set[str]:
    """The figures that docs/telemetry.md says a kind of router has."""
    rows = re.findall(r"^\| `([\w/]+)` \| ([^|]+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    kinds = {"token": ("all", "sparse", "token choice"), "expert": ("all", "sparse"), "soft": ("all", "Soft MoE")}[kind]
    return {
        name
        for name, routers in rows
        if routers.replace(", *detailed*", "").strip() in kinds and (detail or "*detailed*" not in routers)
    }


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_the_table_in_the_docs_has_every_figure_of_every_router_and_no_other(name: str, detail: bool) -> None:
    router = make_router(name, 8, 4, capacity=Capacity(2.0), tokens=10)
    kind = "soft" if name == "soft" else router.choice
    assert router(torch.randn(2, 10, 8)).stats(detail).keys() == documented(kind, detail)


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
