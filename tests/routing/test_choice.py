from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.routing import expert_choice, softmax, token_choice

from .problems import Problem, examples, problems
from .reference import algorithm_1, algorithm_2


@examples
@given(problems(), st.sampled_from(["order", "score"]))
def test_token_choice_is_algorithm_1(problem: Problem, priority: str) -> None:
    affinity, weights = softmax(problem.logits), softmax(problem.logits * 2)
    routing = token_choice(affinity, weights, problem.k, problem.capacity, priority, problem.mask)
    expected = algorithm_1(affinity, problem.k, problem.capacity, priority, problem.mask)
    dispatch, combine = routing.tensors()
    assert torch.equal(dispatch.float(), expected)
    assert torch.equal(combine, expected * weights.unsqueeze(-1))


@examples
@given(problems())
def test_a_token_asks_for_no_expert_that_it_does_not_want(problem: Problem) -> None:
    affinity = softmax(problem.logits)
    wanted = problem.logits > 0
    routing = token_choice(affinity, affinity, problem.k, problem.capacity, mask=problem.mask, wanted=wanted)
    dispatch, _ = routing.tensors()
    assert not dispatch.sum(-1)[~wanted].any()
    real = wanted if problem.mask is None else wanted & problem.mask.unsqueeze(-1)
    assert routing.demand.sum() == real.sum(-1).clamp_max(problem.k).sum()  # the wanted are the best of a row
    free = routing.demand < problem.capacity
    assert torch.equal(dispatch.sum((1, 3))[free], routing.demand[free].to(dispatch.dtype))


@examples
@given(problems())
def test_expert_choice_is_algorithm_2(problem: Problem) -> None:
    affinity, weights = problem.logits, softmax(problem.logits * 2)
    routing = expert_choice(affinity, weights, problem.capacity, problem.mask)
    expected = algorithm_2(affinity, problem.capacity, problem.mask)
    dispatch, combine = routing.tensors()
    assert torch.equal(dispatch.float(), expected)
    assert torch.equal(combine, expected * weights.unsqueeze(-1))


@examples
@given(problems(masks=False))
def test_every_expert_fills_exactly_c_slots_under_expert_choice(problem: Problem) -> None:
    tokens = problem.logits.shape[1]
    dispatch, _ = expert_choice(problem.logits, problem.logits, problem.capacity).tensors()
    assert (dispatch.sum((1, 3)) == min(problem.capacity, tokens)).all()


@examples
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


@examples
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


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_experts_can_be_renamed(choice: str) -> None:
    affinity = softmax(torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0)))
    names = torch.tensor([3, 1, 5, 0, 2, 4])

    def tensors(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        routing = token_choice(scores, scores, 2, 4) if choice == "token" else expert_choice(scores, scores, 4)
        return routing.tensors()

    for renamed, original in zip(tensors(affinity[..., names]), tensors(affinity)):
        assert torch.equal(renamed, original[:, :, names])


def test_tokens_can_be_reordered_under_expert_choice_and_batch_priority() -> None:
    affinity = softmax(torch.randn(1, 20, 6, generator=torch.Generator().manual_seed(0)))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    before, after = (expert_choice(a, a, 4).tensors()[0] for a in (affinity, affinity[:, order]))
    assert torch.equal(after, before[:, order])
    before, after = (token_choice(a, a, 1, 4, "score").tensors()[0] for a in (affinity, affinity[:, order]))
    assert torch.equal(after, before[:, order])


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
