"""What an MoE layer promises whatever its router: shapes, groups, padding, dropped tokens, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_bench.model import MoE
from moe_bench.routing import SparseRouter

EXPERTS, TOKENS, DIM = 4, 6, 8


def layer(router: str, capacity: float = 1.0, group_images: int = 2) -> MoE:
    """A small layer whose experts differ, in evaluation mode."""
    torch.manual_seed(0)
    made = MoE(
        DIM, 16, router, EXPERTS, capacity=capacity, group_images=group_images, tokens=TOKENS, identical_experts=False
    )
    return made.eval()


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, TOKENS, DIM, generator=torch.Generator().manual_seed(seed))


def test_shape_in_is_shape_out_for_any_number_of_images(router_name: str) -> None:
    moe = layer(router_name)
    for count in (1, 2, 3, 5):
        assert moe(images(count)).shape == (count, TOKENS, DIM)


def test_groups_do_not_influence_each_other(router_name: str) -> None:
    moe = layer(router_name)
    x = images(4)
    torch.testing.assert_close(moe(x), torch.cat([moe(x[:2]), moe(x[2:])]))


def test_padding_of_the_last_group_takes_no_slot(router_name: str) -> None:
    """Three images in groups of two are what they are when the fourth is marked as padding, whatever it holds."""
    moe = layer(router_name)
    x = images(3)
    padded = torch.cat([x, 100 * images(1, seed=2)])
    valid = torch.tensor([True, True, True, False])
    torch.testing.assert_close(moe(padded, valid)[:3], moe(x))


def test_without_a_mask_the_same_neighbour_does_take_slots() -> None:
    moe = layer("softmax_ec", capacity=0.5)
    x, neighbour = images(1), 100 * images(1, seed=2)
    assert not torch.allclose(moe(torch.cat([x, neighbour]))[:1], moe(x))


def test_a_group_of_padding_alone_is_finite_in_value_and_gradient(router_name: str) -> None:
    moe = layer(router_name)
    x = images(4).requires_grad_()
    y, routing = moe.forward_with_routing(x, torch.tensor([True, True, False, False]))
    loss = y[:2].square().sum() if routing.aux_loss is None else y[:2].square().sum() + routing.aux_loss.mean()
    loss.backward()
    assert y.isfinite().all()
    assert x.grad is not None
    for gradient in (x.grad, *(p.grad for p in moe.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()


@pytest.mark.parametrize("router", ["softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec"])
def test_tokens_without_a_slot_leave_as_zeros(router: str) -> None:
    moe = layer(router, capacity=0.5)
    x = images(2)
    y, routing = moe.forward_with_routing(x)
    dispatch, _ = routing.tensors()
    dropped = (dispatch.sum(dim=(2, 3)) == 0).reshape(2, TOKENS)
    assert dropped.any()
    assert not dropped.all()
    assert torch.equal(y[dropped], torch.zeros_like(y[dropped]))
    assert (y[~dropped].abs().sum(dim=-1) > 0).all()


def test_the_layer_is_equation_2(router_name: str) -> None:
    """Against the sum over experts and slots written out with dense tensors."""
    moe = layer(router_name, capacity=2.0)
    x = images(2)
    y, routing = moe.forward_with_routing(x)
    dispatch, combine = (tensor.float() for tensor in routing.tensors())
    groups = x.reshape(dispatch.shape[0], -1, DIM)
    slots = torch.einsum("gtec,gtd->egcd", dispatch, groups)
    outputs = moe.experts(slots.flatten(1, 2)).view_as(slots)
    expected = torch.einsum("gtec,egcd->gtd", combine, outputs).view_as(x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_soft_routes_every_image_alone() -> None:
    moe = layer("soft", group_images=8)
    assert moe.group_images == 1
    x = images(3)
    torch.testing.assert_close(moe(x), torch.cat([moe(image[None]) for image in x]))


def test_sparse_images_of_a_group_compete_for_slots() -> None:
    moe = layer("softmax_ec", capacity=0.5)
    x = images(2)
    assert not torch.allclose(moe(x), torch.cat([moe(x[:1]), moe(x[1:])]))


def test_gradients_reach_every_parameter(router_name: str) -> None:
    moe = layer(router_name, capacity=2.0).train()
    moe(images(4)).square().sum().backward()
    for name, parameter in moe.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_an_expert_that_nobody_chose_has_zero_gradients_and_not_none() -> None:
    router = SparseRouter(DIM, EXPERTS, affinity="softmax", choice="token", k=1)
    torch.nn.init.zeros_(router.gate.weight)
    with torch.no_grad():
        router.gate.weight[0, 0] = 1.0
    moe = MoE(DIM, 16, router, EXPERTS, group_images=2).eval()
    x = images(2)
    x[..., 0] = 1.0  # every token prefers expert 0; what overflows its buffer is dropped
    moe(x).square().sum().backward()
    for name, parameter in moe.experts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[0].abs().sum() > 0, name
        assert torch.equal(parameter.grad[1:], torch.zeros_like(parameter.grad[1:])), name


def test_bf16_autocast_trains_and_routes_as_float32(router_name: str) -> None:
    moe = layer(router_name).train()
    torch.manual_seed(3)
    _, exact = moe.forward_with_routing(images(2))
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = moe.forward_with_routing(images(2))
    for ours, theirs in zip(routing.tensors(), exact.tensors()):
        torch.testing.assert_close(ours, theirs)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in moe.parameters())


def test_noise_acts_in_training_only() -> None:
    moe = layer("softmax_ec", capacity=0.5)
    x = images(4)
    assert torch.equal(moe(x), moe(x))
    moe.train()
    assert not torch.equal(moe(x), moe(x))


def test_a_group_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="group_images is 0"):
        layer("softmax_ec", group_images=0)
