"""Stacked experts are E MLPs, start as promised and always have gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_bench.model import pages
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


def plain(experts: Experts, slots: Tensor) -> Tensor:
    """The same in torch's own words."""
    hidden = F.gelu(torch.baddbmm(experts.b1.unsqueeze(1), slots, experts.w1), approximate="tanh")
    return torch.baddbmm(experts.b2.unsqueeze(1), hidden, experts.w2)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("learning", ["everything", "w1", "w2", "b1", "b2", "slots"])
def test_values_and_gradients_are_those_of_plain_torch_bit_for_bit(learning: str, autocast: bool) -> None:
    torch.manual_seed(0)
    experts = Experts(2, 64, 256, identical=False)
    slots, cotangent = torch.randn(2, 10, 64), torch.randn(2, 10, 64)
    tensors = {"slots": slots, **dict(experts.named_parameters())}
    for name, tensor in tensors.items():
        tensor.requires_grad_(learning in (name, "everything"))
    learners = [tensor for tensor in tensors.values() if tensor.requires_grad]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = experts(slots), plain(experts, slots)
        with torch.no_grad():
            assert torch.equal(experts(slots), theirs)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)
    gradients = (torch.autograd.grad(y, learners, cotangent.to(y.dtype)) for y in (ours, theirs))
    for our_slope, their_slope in zip(*gradients):
        assert our_slope.dtype == their_slope.dtype
        assert torch.equal(our_slope, their_slope)


def test_gradients_are_the_slopes_of_the_values() -> None:
    torch.manual_seed(0)
    experts = Experts(2, 3, 5, identical=False).double()
    slots = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(experts.named_parameters())

    def layer(slots: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(experts, dict(zip(parameters, values)), (slots,))

    assert torch.autograd.gradcheck(layer, (slots, *parameters.values()))


def test_kernels_beyond_the_allocators_memory_learn_the_same() -> None:
    torch.manual_seed(0)
    experts = Experts(2, 256, pages.WORTH_IT // 4 // 256, identical=False)  # 64 MiB a kernel
    slots, cotangent = torch.randn(2, 3, 256), torch.randn(2, 3, 256)
    ours, theirs = (
        torch.autograd.grad(y, experts.parameters(), cotangent) for y in (experts(slots), plain(experts, slots))
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_dtypes_that_do_not_fit_are_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        Experts(2, 4, 8)(torch.zeros(2, 3, 4, dtype=torch.bfloat16))
