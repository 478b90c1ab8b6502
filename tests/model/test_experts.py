"""Stacked experts are E MLPs, start as promised and always have gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moe_bench.model.experts import Experts


def test_each_slice_goes_through_its_own_mlp() -> None:
    torch.manual_seed(0)
    experts = Experts(3, 6, 10, identical=False)
    slots = torch.randn(3, 5, 6)
    for e in range(3):
        hidden = F.gelu(slots[e] @ experts.w1[e] + experts.b1[e], approximate="tanh")
        torch.testing.assert_close(experts(slots)[e], hidden @ experts.w2[e] + experts.b2[e])


def test_identical_experts_are_copies_of_one_xavier_draw() -> None:
    experts = Experts(4, 64, 256)
    for parameter in experts.parameters():
        assert torch.equal(parameter, parameter[:1].expand_as(parameter))
    bound = math.sqrt(6 / (64 + 256))
    for kernel in (experts.w1, experts.w2):
        assert 0.99 * bound < kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    for bias in (experts.b1, experts.b2):
        assert bias[0].std().item() == pytest.approx(1e-6, rel=0.3)


def test_independent_experts_differ_and_have_the_same_spread() -> None:
    experts = Experts(4, 64, 256, identical=False)
    for parameter in experts.parameters():
        assert not torch.equal(parameter[0], parameter[1])
    assert experts.w1[3].abs().max() <= math.sqrt(6 / (64 + 256))


def test_identical_experts_draw_no_more_random_numbers_than_one_expert() -> None:
    torch.manual_seed(7)
    one = Experts(1, 8, 16)
    after_one = torch.rand(1)
    torch.manual_seed(7)
    many = Experts(5, 8, 16)
    assert torch.equal(torch.rand(1), after_one)
    assert torch.equal(many.w2[4], one.w2[0])


def test_an_expert_of_empty_slots_has_gradients_of_zero_in_its_kernels_and_never_none() -> None:
    experts = Experts(2, 4, 8)
    slots = torch.randn(2, 3, 4)
    slots[1] = 0.0
    weight = torch.tensor([1.0, 0.0]).view(2, 1, 1)  # what combine does to slots that nobody filled
    (experts(slots) * weight).sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].abs().sum() > 0
        assert torch.equal(parameter.grad[1], torch.zeros_like(parameter.grad[1]))


def test_dropout_acts_in_training_only() -> None:
    experts = Experts(2, 8, 16, dropout=0.5)
    slots = torch.randn(2, 32, 8)
    assert (experts(slots) == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    experts.eval()
    assert not (experts(slots) == 0).any()
