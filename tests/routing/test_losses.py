from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from moe_bench.routing import gshard_loss, importance_loss, load_loss, z_loss

from .problems import Problem, problems

NOISE = 0.3


def load(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    noise = NOISE * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    return load_loss(logits, logits + noise, 1, NOISE, mask)


LOSSES = [importance_loss, load, gshard_loss, z_loss]


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_takes_no_part(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.arange(12).expand(2, 12) < 7
    garbage = logits.masked_fill(~mask.unsqueeze(-1), 50.0)
    noiseless = {"mask": mask}
    torch.testing.assert_close(loss(garbage, **noiseless), loss(logits, **noiseless))
    if loss is not load:  # whose noise depends on the shape
        torch.testing.assert_close(loss(logits, **noiseless), loss(logits[:, :7]))


@given(problems())
def test_losses_and_gradients_are_finite_and_zero_for_a_group_of_padding(problem: Problem) -> None:
    for loss in LOSSES:
        logits = problem.logits.clone().requires_grad_()
        value = loss(logits, problem.mask)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        if problem.mask is not None:
            assert not value[~problem.mask.any(1)].any()
            assert not gradient[~problem.mask].any()


@given(problems(masks=False))
def test_the_z_loss_is_the_mean_squared_logarithm_of_the_normaliser(problem: Problem) -> None:
    expected = problem.logits.logsumexp(-1).square().mean(1)
    torch.testing.assert_close(z_loss(problem.logits), expected)
    uniform = torch.full((1, 3, 4), 2.0)
    assert z_loss(uniform).item() == pytest.approx((2 + math.log(4)) ** 2)


def test_balanced_gates_cost_nothing() -> None:
    logits = 5 * torch.eye(4).repeat(3, 1).unsqueeze(0)  # twelve tokens, three for each of four experts
    assert importance_loss(logits).item() == pytest.approx(0, abs=1e-6)
    assert load_loss(logits, logits, 1, NOISE).item() == pytest.approx(0, abs=1e-6)
    assert gshard_loss(logits).item() == pytest.approx(1, abs=1e-6)


def test_one_expert_for_all_costs_the_number_of_experts_less_one() -> None:
    logits = torch.tensor([50.0, 0, 0, 0]).expand(1, 10, 4)
    assert importance_loss(logits).item() == pytest.approx(3, rel=1e-5)  # CV² of (10, 0, 0, 0)
    assert load_loss(logits, logits + 1e-9, 1, NOISE).item() == pytest.approx(3, rel=1e-5)
    assert gshard_loss(logits).item() == pytest.approx(4, rel=1e-5)


def test_load_counts_how_often_an_expert_would_win() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 1, 3, generator=generator, dtype=torch.float64)
    noisy = clean + NOISE * torch.randn(1, 1, 3, generator=generator, dtype=torch.float64)
    threshold = noisy.max()
    draws = clean + NOISE * torch.randn(200_000, 1, 3, generator=generator, dtype=torch.float64)
    wins = (draws > threshold).double().mean(0)[0]
    expected = wins.var(correction=0) / wins.mean() ** 2
    assert load_loss(clean, noisy, 1, NOISE).item() == pytest.approx(expected.item(), rel=0.05)


def test_gradients_are_right() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    assert torch.autograd.gradcheck(importance_loss, (logits, mask))
    assert torch.autograd.gradcheck(load, (logits, mask))


def test_gshard_sends_no_gradient_through_its_counts() -> None:
    logits = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    share = torch.nn.functional.one_hot(logits.argmax(-1), 3).double().mean(1)
    expected = 3 * (share * logits.softmax(-1).mean(1)).sum()
    torch.testing.assert_close(gshard_loss(logits).sum(), expected)
    torch.testing.assert_close(
        torch.autograd.grad(gshard_loss(logits).sum(), logits), torch.autograd.grad(expected, logits)
    )
