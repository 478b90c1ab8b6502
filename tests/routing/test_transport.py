from __future__ import annotations

import contextlib
import io
from itertools import pairwise

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.routing import expert_choice, softmax, sparse
from moe_bench.routing.dual import _column_step, simplex_threshold

from .bounds import bound, objective, prices, prices_and_preference, utility_of
from .problems import Problem, problems
from .reference import column_projection, equation_9_by_adam, of_each_group, prices_by_sweeps, semi_dual

SOLVERS = ("adam", "sweeps", "dual")


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(problem=problems(), solver=st.sampled_from(SOLVERS))
def test_plans_are_finite_with_exact_columns_and_at_most_c_nonzeros_each(
    dtype: torch.dtype, atol: float, problem: Problem, solver: str
) -> None:
    utility = softmax(problem.logits.to(dtype))
    plan = sparse(utility, problem.capacity, solver, iterations=7, mask=problem.mask)
    real = torch.ones(problem.logits.shape[:2]) if problem.mask is None else problem.mask
    share = real.to(dtype).sum(1, keepdim=True) / problem.logits.shape[-1]
    assert plan.isfinite().all()
    assert (plan >= 0).all()
    assert not plan[real == 0].any()
    assert ((plan > 0).sum(1) <= problem.capacity).all()
    torch.testing.assert_close(plan.sum(1), share.expand_as(plan.sum(1)), atol=atol, rtol=0)


@given(problems(max_tokens=8), st.sampled_from(["adam", "sweeps"]))
def test_padding_changes_nothing_for_the_real_tokens(problem: Problem, solver: str) -> None:
    if problem.mask is None:
        return
    utility = softmax(problem.logits)
    plan = sparse(utility, problem.capacity, solver, iterations=5, mask=problem.mask)
    for g, real in enumerate(problem.mask):
        if real.any():
            alone = sparse(utility[g : g + 1, real], problem.capacity, solver, iterations=5)
            torch.testing.assert_close(plan[g, real], alone[0], atol=1e-9, rtol=0)


def test_padding_changes_nothing_for_dual() -> None:  # whose Adam blows rounding up where a gradient is zero
    utility, real = utility_of(10, 1, 64, 4), torch.arange(64) % 4 > 0
    plan = sparse(utility, 16, "dual", iterations=20, mask=real.unsqueeze(0))
    torch.testing.assert_close(plan[:, real], sparse(utility[:, real], 16, "dual", iterations=20), atol=1e-9, rtol=0)


@given(problems(), st.integers(1, 30))
def test_adam_is_the_authors_solver_on_the_real_tokens_alone(problem: Problem, steps: int) -> None:
    utility = softmax(problem.logits)
    plan = sparse(utility, problem.capacity, iterations=steps, mask=problem.mask)
    slow = of_each_group(lambda u: equation_9_by_adam(u, problem.capacity, steps), utility, problem.mask)
    torch.testing.assert_close(plan, slow, atol=1e-8, rtol=0)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3))
def test_any_prices_bound_any_feasible_plan_from_above(seed: int, share: int, experts: int, mixed: int) -> None:
    """The plan mixes balanced assignments, each of ``share`` tokens an expert, so ``mixed`` times as many nonzeros."""
    generator = torch.Generator().manual_seed(seed)
    tokens = share * experts
    utility = torch.randn(tokens, experts, generator=generator, dtype=torch.float64).softmax(-1)
    assignment = torch.eye(experts, dtype=torch.float64).repeat_interleave(share, 0)
    plan = sum(assignment[torch.randperm(tokens, generator=generator)] for _ in range(mixed)) / mixed
    price = torch.randn(tokens, generator=generator, dtype=torch.float64).numpy()
    assert semi_dual(utility.numpy(), price, share * mixed) >= objective(plan, utility) - 1e-12


@given(problems(masks=False, kinds=("spread",)), st.integers(1, 4))
def test_sweeps_are_exact_answers_of_experts_and_tokens_in_turn(problem: Problem, count: int) -> None:
    for utility in softmax(problem.logits):
        ours = prices(utility.unsqueeze(0), problem.capacity, "sweeps", count)
        np.testing.assert_allclose(ours, prices_by_sweeps(utility.numpy(), problem.capacity, count), atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("capacity", [3, 6, 9, 40])
def test_the_solvers_bounds_are_above_a_feasible_plan(solver: str, capacity: int) -> None:
    utility = utility_of(0, 1, 24, 8)
    plan = torch.eye(8, dtype=torch.float64).repeat_interleave(3, 0)  # three tokens each: feasible for any C >= 3
    assert bound(utility, capacity, solver, 20) >= objective(plan, utility[0])


def test_the_gradient_of_the_bound_is_what_each_row_misses() -> None:
    utility, capacity = utility_of(1, 1, 24, 4), 9
    price = prices(utility, capacity, "adam", 20)
    columns = [column_projection(utility[0, :, r].numpy() - price, 6.0, capacity) for r in range(4)]
    missing = 1 - np.stack(columns, 1).sum(1)
    step = 1e-6 * np.eye(24)
    slope = [
        (semi_dual(utility[0].numpy(), price + s, capacity) - semi_dual(utility[0].numpy(), price - s, capacity)) / 2e-6
        for s in step
    ]
    np.testing.assert_allclose(slope, missing, atol=1e-5)


@pytest.mark.parametrize("capacity", [6, 8, 12])
def test_each_sweep_lowers_the_bound(capacity: int) -> None:
    utility = utility_of(2, 1, 48, 8)
    bounds = [bound(utility, capacity, "sweeps", count) for count in range(6)]
    assert all(after <= before + 1e-9 for before, after in pairwise(bounds))
    assert bounds[3] < bounds[0] - 1e-3


@pytest.mark.parametrize("capacity", [32, 64])
@pytest.mark.parametrize("std", [1.0, 3.0])
def test_three_sweeps_beat_twenty_adam_steps_and_dual_beats_both(std: float, capacity: int) -> None:
    utility = utility_of(3, 1, 256, 8, std=std)
    adam, sweeps, dual = (bound(utility, capacity, *solver) for solver in (("adam", 20), ("sweeps", 3), ("dual", 400)))
    assert dual < sweeps < adam


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ot.*")
@pytest.mark.parametrize("pot", ["smooth_ot_semi_dual", "smooth_ot_dual"])
@pytest.mark.parametrize("c", [1, 2])
@pytest.mark.parametrize("std", [1.0, 3.0])
def test_dual_is_as_good_as_pots_optimisers(std: float, c: int, pot: str) -> None:
    utility, capacity = utility_of(4, 1, 64, 8, std=std), 8 * c
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the shape of every gradient
        alpha = getattr(ot.smooth, pot)(
            np.ones(64), np.full(8, 8.0), -utility[0].numpy(), 1.0, "sparsity_constrained", max_nz=capacity, log=True
        )[1]["alpha"]
    theirs = semi_dual(utility[0].numpy(), -alpha, capacity)
    assert bound(utility, capacity, "dual", 400) <= theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ot.*")
@pytest.mark.parametrize("std", [1.0, 3.0])
def test_with_a_slot_for_every_token_it_is_quadratic_transport(std: float) -> None:
    utility = utility_of(14, 1, 40, 5, std=std)
    plan = ot.smooth.smooth_ot_dual(np.ones(40), np.full(5, 8.0), -utility[0].numpy(), 1.0, "l2", stopThr=1e-12)
    torch.testing.assert_close(sparse(utility, 40, "dual", 400)[0], torch.from_numpy(plan), atol=2e-3, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_added_to_a_token_is_paid_by_its_price(solver: str) -> None:
    utility, capacity = utility_of(15, 1, 32, 4), 9
    constant = torch.randn(1, 32, 1, generator=torch.Generator().manual_seed(16), dtype=torch.float64)
    price, raised = prices(utility, capacity, solver, 20), (utility + constant)[0].numpy()
    shifted = semi_dual(raised, price + constant.numpy().ravel(), capacity)
    assert shifted == pytest.approx(bound(utility, capacity, solver, 20) + constant.sum().item(), abs=1e-9)


def test_a_constant_added_to_a_token_leaves_the_best_plan() -> None:
    utility = utility_of(17, 1, 32, 4)
    constant = torch.rand(1, 32, 1, generator=torch.Generator().manual_seed(18), dtype=torch.float64)
    plan, same = (sparse(u, 32, "dual", 2000) for u in (utility, utility + constant))
    torch.testing.assert_close(same, plan, atol=1e-3, rtol=0)


def test_at_capacity_one_dual_finds_the_best_balanced_assignment() -> None:
    utility = utility_of(5, 1, 64, 8, std=1.0)
    best = ot.emd(np.ones(64), np.full(8, 8.0), -utility[0].numpy())
    exact = float((best * utility[0].numpy()).sum()) - 64 / 2
    assert exact - 1e-9 <= bound(utility, 8, "dual", 400) <= exact + 2e-3
    plan = sparse(utility, 8, "dual")[0]
    assert objective(plan, utility[0]) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("solver", ["sweeps", "dual"])
def test_the_tie_break_makes_float32_and_float64_choose_alike(solver: str) -> None:
    utility = utility_of(6, 2, 512, 8)
    chosen = [
        expert_choice(plan, plan, 128).tensors()[0]
        for plan in (sparse(utility, 128, solver), sparse(utility.float(), 128, solver))
    ]
    shared = (chosen[0].sum(-1) * chosen[1].sum(-1)).sum() / chosen[0].sum()
    assert shared > 0.999


@pytest.mark.parametrize("solver", ["sweeps", "dual"])
def test_tokens_meant_for_nobody_are_taken_by_their_offers(solver: str) -> None:
    utility = utility_of(19, 1, 64, 8)
    price, preference = prices_and_preference(utility, 16, solver, 50)
    offers = utility.mT - price
    for offered, preferred in zip(offers[0], preference[0]):
        unmeant = preferred.abs() < 0.01  # λ is 0, and what is left is a thousandth of the offer
        assert unmeant.sum() > 20
        assert torch.equal(preferred[unmeant].argsort(stable=True), offered[unmeant].argsort(stable=True))


@pytest.mark.parametrize("solver", ["sweeps", "dual"])
def test_the_tie_break_makes_better_plans(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    utility = utility_of(6, 1, 512, 8)
    with_it = (sparse(utility, 128, solver).sum(-1) - 1).abs().mean()
    monkeypatch.setattr("moe_bench.routing.dual.TIE_BREAK", 1e20)  # so that U − α alone decides
    without = (sparse(utility, 128, solver).sum(-1) - 1).abs().mean()
    assert with_it < 0.7 * without


@pytest.mark.parametrize("solver", SOLVERS)
def test_slots_beyond_the_number_of_tokens_change_nothing(solver: str) -> None:
    utility = utility_of(12, 2, 20, 4)
    plan = sparse(utility, 20, solver, iterations=10)
    torch.testing.assert_close(sparse(utility, 25, solver, iterations=10), plan, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_tokens_can_be_reordered_and_experts_renamed(solver: str) -> None:
    utility = utility_of(7, 1, 32, 4)
    tokens = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    experts = torch.tensor([2, 0, 3, 1])
    plan = sparse(utility, 8, solver)
    torch.testing.assert_close(
        sparse(utility[:, tokens][..., experts], 8, solver), plan[:, tokens][..., experts], atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_uniform_utilities_are_routed_the_same_way_every_time(solver: str) -> None:
    utility = torch.full((2, 16, 4), 0.25)
    plans = [sparse(utility, 4, solver) for _ in range(3)]
    assert all(torch.equal(plans[0], plan) for plan in plans)
    assert plans[0].isfinite().all()


def test_one_expert_takes_everyone_once() -> None:
    for solver in SOLVERS:
        torch.testing.assert_close(sparse(torch.ones(2, 7, 1), 7, solver), torch.ones(2, 7, 1), atol=1e-5, rtol=0)


def test_a_converged_group_stops_while_others_go_on() -> None:
    utility = torch.cat([torch.full((1, 8, 2), 0.5).double(), utility_of(8, 1, 8, 2)])
    together = sparse(utility, 8, iterations=20)
    torch.testing.assert_close(together[:1], sparse(utility[:1], 8, iterations=1), atol=0, rtol=0)
    torch.testing.assert_close(together[1:], sparse(utility[1:], 8, iterations=20), atol=1e-12, rtol=0)


def test_padding_does_not_keep_a_converged_group_going() -> None:
    utility = 1 / 3 + 1e-5 * utility_of(11, 1, 9, 3).cumsum(-1)  # rows that are 1e-5 off
    mask = torch.arange(9).unsqueeze(0) < 6
    once = sparse(utility, 9, iterations=1, mask=mask)
    torch.testing.assert_close(sparse(utility, 9, iterations=20, mask=mask), once, atol=0, rtol=0)


def test_the_last_projection_is_differentiable_and_the_search_is_not() -> None:
    utility = utility_of(9, 1, 10, 3).requires_grad_()
    plan = sparse(utility, 5)
    (slope,) = torch.autograd.grad((plan * torch.arange(30.0).view(1, 10, 3)).sum(), utility)
    assert slope.isfinite().all()
    assert slope.any()
    torch.testing.assert_close(slope.sum(1), torch.zeros(1, 3).double(), atol=1e-9, rtol=0)  # mass stays b
    assert not slope[plan == 0].any()


def test_slots_cost_nothing_where_there_is_one_for_every_token() -> None:
    offers = utility_of(13, 1, 6, 3).mT
    mass = torch.full((1, 1, 1), 2.0).double()
    assert not _column_step(offers, mass, 6)[1].any()
    assert _column_step(offers, mass, 2)[1].all()
    offers[..., 4:] = -torch.inf  # padding
    assert not _column_step(offers, mass, 4)[1].any()


def test_the_threshold_leaves_the_asked_mass() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, -torch.inf])
    for mass in (0.5, 1.0, 4.0):
        tau = simplex_threshold(values, torch.tensor(mass))
        assert (values - tau).relu().sum().item() == pytest.approx(mass)


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="no solver 'newton'; use one of adam, sweeps, dual"):
        sparse(torch.ones(1, 4, 2), 2, "newton")


def test_zero_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="adam needs at least 1 iteration, not 0"):
        sparse(torch.ones(1, 4, 2), 2, iterations=0)
