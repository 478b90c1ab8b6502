from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moe_bench.routing import expert_choice, softmax, token_choice

from .problems import Problem, problems
from .reference import algorithm_1, algorithm_2


@given(problems(), st.sampled_from(["order", "score"]))
def test_token_choice_is_algorithm_1(problem: Problem, priority: str) -> None:
    affinity, weights = softmax(problem.logits), softmax(problem.logits * 2)
    routing = token_choice(affinity, weights, problem.k, problem.capacity, priority, problem.mask)
    expected = algorithm_1(affinity, problem.k, problem.capacity, priority, problem.mask)
    dispatch, combine = routing.tensors()
    assert torch.equal(dispatch.double(), expected)
    assert torch.equal(combine, expected * weights.unsqueeze(-1))


@given(problems())
def test_a_token_asks_for_no_expert_that_it_does_not_want(problem: Problem) -> None:
    affinity, wanted = problem.logits, problem.logits > 0
    routing = token_choice(affinity, affinity, problem.k, problem.capacity, mask=problem.mask, wanted=wanted)
    dispatch, _ = routing.tensors()
    assert not dispatch.sum(-1)[~wanted].any()
    real = wanted if problem.mask is None else wanted & problem.mask.unsqueeze(-1)
    assert routing.demand.sum() == real.sum(-1).clamp_max(problem.k).sum()  # the wanted are the best of a row
    free = routing.demand < problem.capacity
    assert torch.equal(dispatch.sum((1, 3))[free], routing.demand[free].to(dispatch.dtype))


@given(problems())
def test_expert_choice_is_algorithm_2(problem: Problem) -> None:
    affinity, weights = problem.logits, softmax(problem.logits * 2)
    routing = expert_choice(affinity, weights, problem.capacity, problem.mask)
    expected = algorithm_2(affinity, problem.capacity, problem.mask)
    dispatch, combine = routing.tensors()
    assert torch.equal(dispatch.double(), expected)
    assert torch.equal(combine, expected * weights.unsqueeze(-1))


@given(problems(masks=False))
def test_every_expert_fills_exactly_c_slots_under_expert_choice(problem: Problem) -> None:
    tokens = problem.logits.shape[1]
    dispatch, _ = expert_choice(problem.logits, problem.logits, problem.capacity).tensors()
    assert (dispatch.sum((1, 3)) == min(problem.capacity, tokens)).all()


@given(problems(), st.sampled_from(["order", "score"]))
def test_token_choice_gives_at_most_c_tokens_to_an_expert_and_k_experts_to_a_token(
    problem: Problem, priority: str
) -> None:
    affinity = softmax(problem.logits)
    dispatch, _ = token_choice(affinity, affinity, problem.k, problem.capacity, priority, problem.mask).tensors()
    assert dispatch.sum((1, 3)).max() <= problem.capacity
    assert dispatch.sum((2, 3)).max() <= problem.k
    assert dispatch.sum(1).max() <= 1  # one token a slot
    assert dispatch.sum(3).max() <= 1  # the k experts of a token are distinct


@given(problems())
def test_padding_takes_no_slot(problem: Problem) -> None:
    if problem.mask is None:
        return
    for routing in (
        token_choice(problem.logits, problem.logits, problem.k, problem.capacity, mask=problem.mask),
        expert_choice(problem.logits, problem.logits, problem.capacity, problem.mask),
    ):
        dispatch, combine = routing.tensors()
        assert not dispatch[~problem.mask].any()
        assert not combine[~problem.mask].any()


@given(problems(), st.sampled_from(["order", "score"]))
def test_no_choice_has_a_slot_that_an_earlier_choice_was_refused(problem: Problem, priority: str) -> None:
    dispatch = choose(problem.logits, problem, priority)
    seated = dispatch.sum(-1) > 0
    best_first = problem.logits.float().sort(dim=-1, descending=True, stable=True).indices
    choice = best_first.argsort(dim=-1)  # (G, T, E): 0 where an expert is a token's first choice, 1 the second, ...
    asked = choice < problem.k if problem.mask is None else (choice < problem.k) & problem.mask.unsqueeze(-1)
    last_served = torch.where(seated, choice, -1).amax(1)
    first_refused = torch.where(asked & ~seated, choice, problem.k).amin(1)
    assert not (seated & ~asked).any()
    assert (last_served <= first_refused).all()


def test_first_choices_come_before_second_choices() -> None:
    # Every token likes expert 0 best and 1 second, but the last one, which likes 1 best.
    affinity = torch.tensor([[0.6, 0.3, 0.1]] * 3 + [[0.3, 0.6, 0.1]]).unsqueeze(0)
    dispatch, _ = token_choice(affinity, affinity, k=2, capacity=1).tensors()
    assert dispatch[0, :, 0, 0].tolist() == [1, 0, 0, 0]
    assert dispatch[0, :, 1, 0].tolist() == [0, 0, 0, 1]  # although tokens 0-2 came first


def test_batch_priority_serves_the_surest_tokens_first() -> None:
    affinity = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.9, 0.1], [0.7, 0.3]]).unsqueeze(0)
    in_order, _ = token_choice(affinity, affinity, 1, 2, "order").tensors()
    by_score, _ = token_choice(affinity, affinity, 1, 2, "score").tensors()
    assert in_order[0, :, 0].argmax(0).tolist() == [0, 1]
    assert by_score[0, :, 0].argmax(0).tolist() == [2, 1]  # token 1 before its equal, token 3


def test_an_overflowing_choice_is_dropped_and_its_place_is_not_given_away() -> None:
    affinity = torch.tensor([[0.9, 0.1]] * 5).unsqueeze(0)
    routing = token_choice(affinity, affinity, k=1, capacity=2)
    dispatch, _ = routing.tensors()
    assert dispatch.sum() == 2
    assert routing.demand.tolist() == [[5, 0]]


@pytest.mark.parametrize("scores", [torch.zeros(2, 9, 4), torch.full((2, 9, 4), -3.5), torch.full((2, 9, 4), 1e-40)])
def test_ties_go_to_the_lower_index(scores: torch.Tensor) -> None:
    by_experts, _ = expert_choice(scores, scores, 3).tensors()
    assert by_experts.argmax(1)[0, 0].tolist() == [0, 1, 2]
    by_tokens, _ = token_choice(scores, scores, 1, 3).tensors()
    assert by_tokens[0, :3, 0].argmax(-1).tolist() == [0, 1, 2]
    assert by_tokens.sum() == 2 * 3


@given(problems(kinds=("spread", "wide")), st.sampled_from(["order", "score", "expert"]))
def test_experts_can_be_renamed_where_no_scores_are_equal(problem: Problem, rule: str) -> None:
    experts = problem.logits.shape[-1]
    names = torch.randperm(experts, generator=torch.Generator().manual_seed(0))
    original, renamed = (choose(scores, problem, rule) for scores in (problem.logits, problem.logits[..., names]))
    assert torch.equal(renamed, original[:, :, names])


@given(problems(kinds=("spread", "wide")), st.sampled_from(["score", "expert"]))
def test_tokens_can_be_reordered_where_no_scores_are_equal_and_order_gives_no_priority(
    problem: Problem, rule: str
) -> None:
    original, moved, order = reordered(problem, rule)
    assert torch.equal(moved, original[:, order])


@given(problems(kinds=("spread", "wide")))
def test_where_order_gives_priority_reordering_changes_only_who_overflows(problem: Problem) -> None:
    original, moved, order = reordered(problem, "order")
    assert torch.equal(moved.sum((1, 3)), original.sum((1, 3)))  # each expert still gets as many
    roomy = dataclasses.replace(problem, capacity=problem.logits.shape[1])
    original, moved, order = reordered(roomy, "order")
    assert torch.equal(moved.sum(-1), original[:, order].sum(-1))  # with room for all, who goes where stays


def choose(scores: Tensor, problem: Problem, rule: str, mask: Tensor | None = None) -> Tensor:
    """The dispatch tensor; ``rule`` is "expert" for expert choice or a priority of token choice."""
    mask = problem.mask if mask is None else mask
    if rule == "expert":
        return expert_choice(scores, scores, problem.capacity, mask).tensors()[0]
    return token_choice(scores, scores, problem.k, problem.capacity, rule, mask).tensors()[0]


def reordered(problem: Problem, rule: str) -> tuple[Tensor, Tensor, Tensor]:
    """The dispatch tensors of ``problem`` and of its tokens in another order, and that order."""
    order = torch.randperm(problem.logits.shape[1], generator=torch.Generator().manual_seed(0))
    mask = None if problem.mask is None else problem.mask[:, order]
    return choose(problem.logits, problem, rule), choose(problem.logits[:, order], problem, rule, mask), order


def test_groups_do_not_see_each_other() -> None:
    affinity = softmax(torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0)))
    together, _ = token_choice(affinity, affinity, 2, 3).tensors()
    for g in range(3):
        alone, _ = token_choice(affinity[g : g + 1], affinity[g : g + 1], 2, 3).tensors()
        assert torch.equal(together[g], alone[0])


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 4 of 4 experts, not 5"):
        token_choice(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), 5, 1)


def test_an_unknown_priority_is_refused() -> None:
    with pytest.raises(ValueError, match="order, score, not 'random'"):
        token_choice(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), 1, 1, "random")
