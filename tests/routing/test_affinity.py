from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.errors import ConfigError
from moe_bench.routing import relu, sigmoid, sinkhorn, softmax
from moe_bench.routing.affinity import OwnAffinity

from .problems import Problem, problems
from .reference import equation_8, equation_8_by_scaling, of_each_group


def logits_of(seed: int, *shape: int, std: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * std


@given(problems())
def test_softmax_rows_sum_to_one(problem: Problem) -> None:
    torch.testing.assert_close(softmax(problem.logits).sum(-1), torch.ones(problem.logits.shape[:2]).double())


@given(problems(), st.integers(1, 23))
def test_sinkhorn_is_equation_8_on_the_real_tokens_alone(problem: Problem, iterations: int) -> None:
    plan = sinkhorn(problem.logits, iterations, problem.mask)
    expected = of_each_group(lambda logits: equation_8(logits, iterations), problem.logits, problem.mask)
    torch.testing.assert_close(plan, expected, atol=1e-11, rtol=1e-9)


@given(problems())
def test_sinkhorn_rows_sum_to_one_and_columns_to_their_share(problem: Problem) -> None:
    plan = sinkhorn(problem.logits, 400, problem.mask)
    real = torch.ones(problem.logits.shape[:2]).double() if problem.mask is None else problem.mask.double()
    torch.testing.assert_close(plan.sum(-1), real, atol=1e-12, rtol=0)
    if problem.logits.abs().max() < 10:  # with a spread of hundreds, 400 rounds are few
        share = real.sum(1, keepdim=True) / problem.logits.shape[-1]
        torch.testing.assert_close(plan.sum(1), share.expand_as(plan.sum(1)), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("std", [1, 5, 30, 1000, 1e6])
@pytest.mark.parametrize("shift", [0, 1e4])
def test_the_kernel_form_agrees_with_the_log_form_at_any_spread(std: float, shift: float) -> None:
    logits = logits_of(1, 2, 300, 8, std=std) + shift
    plan = sinkhorn(logits)
    torch.testing.assert_close(plan, of_each_group(equation_8, logits, None), atol=1e-9 * max(1, std), rtol=1e-7)
    in_float32 = sinkhorn(logits.float())
    assert in_float32.isfinite().all()
    torch.testing.assert_close(in_float32.sum(-1), torch.ones(2, 300), atol=2e-6, rtol=0)


@pytest.mark.parametrize("spread", [1, 30, 100, 300])
@pytest.mark.parametrize("iterations", [1, 5, 6, 20])
def test_scaling_the_plain_kernel_in_float64_gives_the_same_plan(spread: float, iterations: int) -> None:
    logits = spread * (2 * torch.rand(60, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64) - 1)
    expected = equation_8_by_scaling(logits, iterations)
    torch.testing.assert_close(sinkhorn(logits.unsqueeze(0), iterations)[0], expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(equation_8(logits, iterations), expected, atol=1e-12, rtol=1e-9)
    in_float32 = sinkhorn(logits.float().unsqueeze(0), iterations)[0]
    torch.testing.assert_close(in_float32.double(), expected, atol=1e-6 * spread, rtol=0)


def test_columns_that_nobody_wants_and_rows_far_apart_do_not_underflow() -> None:
    logits = logits_of(2, 1, 64, 8, dtype=torch.float32)
    logits[..., 3] = -500  # far below what exp can hold
    logits[:, ::2] += 700
    plan = sinkhorn(logits, 50)
    torch.testing.assert_close(plan.sum(1), torch.full((1, 8), 8.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan[0].double(), equation_8(logits[0], 50), atol=2e-5, rtol=0)


def test_potentials_that_drift_further_each_round_are_absorbed() -> None:
    logits = torch.tensor([0.0, -1000.0]).repeat(1, 4096, 1)
    logits[:, 0] = torch.tensor([-1000.0, 0.0])  # the only token for expert 1, whose factor grows 2048-fold a round
    plan = sinkhorn(logits, 20)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan[0].double(), equation_8(logits[0], 20), atol=1e-4, rtol=0)


def test_sinkhorn_agrees_with_pot() -> None:
    logits = logits_of(3, 48, 8)
    expected = ot.sinkhorn(np.ones(48), np.full(8, 6.0), -logits.numpy(), 1.0, numItermax=20, stopThr=0, warn=False)
    np.testing.assert_allclose(sinkhorn(logits.unsqueeze(0))[0].numpy(), expected, atol=1e-10)


def test_a_constant_added_to_a_token_changes_nothing_once_converged() -> None:
    logits = logits_of(4, 2, 40, 8)
    torch.testing.assert_close(
        sinkhorn(logits, 100), sinkhorn(logits + logits_of(5, 2, 40, 1, std=9), 100), atol=1e-9, rtol=0
    )


@given(problems())
def test_reordering_tokens_or_renaming_experts_does_so_in_the_plan(problem: Problem) -> None:
    _, tokens, experts = problem.logits.shape
    order, names = (torch.randperm(n, generator=torch.Generator().manual_seed(0)) for n in (tokens, experts))
    mask = None if problem.mask is None else problem.mask[:, order]
    moved = sinkhorn(problem.logits[:, order][..., names], 20, mask)
    torch.testing.assert_close(moved, sinkhorn(problem.logits, 20, problem.mask)[:, order][..., names])


@given(problems(max_tokens=64, kinds=("duplicates", "uniform", "ties")))
def test_equal_tokens_have_rows_equal_to_the_last_bit(problem: Problem) -> None:
    """So that Algorithm 2 takes the first of them, on any device."""
    logits = torch.cat([problem.logits, problem.logits], dim=1).float()
    for scores in (softmax(logits), sinkhorn(logits)):
        assert torch.equal(*scores.chunk(2, dim=1))


def test_sinkhorn_is_differentiable() -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = mask[1] = False
    logits = logits_of(6, 2, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sinkhorn(z, 12), logits)
    assert torch.autograd.gradcheck(lambda z: sinkhorn(z, 7, mask), logits)


def test_gradients_stay_finite_at_a_wide_spread() -> None:
    logits = logits_of(7, 1, 200, 8, std=40, dtype=torch.float32).requires_grad_()
    sinkhorn(logits).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_both_are_float32_under_autocast() -> None:
    logits = logits_of(8, 2, 30, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = softmax(logits), sinkhorn(logits)
    for plan, expected in zip(inside, (softmax(logits), sinkhorn(logits))):
        assert plan.dtype == torch.float32
        assert torch.equal(plan, expected)


def test_zero_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 iteration, not 0"):
        sinkhorn(torch.zeros(1, 2, 2), 0)


def test_sigmoid_and_relu_gates_are_of_each_logit_alone_and_in_float32() -> None:
    logits = logits_of(0, 2, 5, 3, std=40.0, dtype=torch.float32).bfloat16()
    torch.testing.assert_close(sigmoid(logits), 1 / (1 + (-logits.float()).exp()))
    torch.testing.assert_close(relu(logits), logits.float().clamp_min(0), rtol=0, atol=0)


def test_a_function_of_ones_own_gets_the_mask_if_it_asks_for_it() -> None:
    def plain(logits: torch.Tensor) -> torch.Tensor:
        return logits.exp()

    def masked(logits: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return logits if mask is None else logits * mask.unsqueeze(-1)

    logits, mask = logits_of(0, 2, 5, 3), torch.arange(5).expand(2, -1) < 3
    assert torch.equal(OwnAffinity(plain)(logits, mask), logits.exp())
    assert torch.equal(OwnAffinity(masked)(logits), logits)
    assert not OwnAffinity(masked)(logits, mask)[:, 3:].any()
    assert torch.equal(OwnAffinity(torch.sigmoid)(logits, mask), logits.sigmoid())  # it has no signature to look at


def test_a_function_that_gives_something_else_than_an_affinity_is_named_with_its_file() -> None:
    def summed(logits: torch.Tensor) -> torch.Tensor:
        return logits.sum(-1)

    with pytest.raises(
        ConfigError, match=r"summed of .*test_affinity.py gave a tensor \(2, 5\) for logits \(2, 5, 3\)"
    ):
        OwnAffinity(summed)(torch.zeros(2, 5, 3))
    with pytest.raises(ConfigError, match="gave a list for logits"):
        OwnAffinity(torch.Tensor.tolist)(torch.zeros(2, 5, 3))
