"""Bytes by arithmetic against bytes that autograd keeps, and which batch fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from example_models import B16, B32, L16, ROUTERS, SMALL_B16, TINY
from torch import Tensor

from moe_bench.config.schema import CapacityConfig, DenseRouterConfig, ModelConfig, RouterConfig, SparseRouterConfig
from moe_bench.model import VisionTransformer, from_config
from moe_bench.model.cost import cost
from moe_bench.model.fit import fits
from moe_bench.model.memory import state_bytes

GIB = 2**30


def saved_bytes(model: VisionTransformer, images: Tensor) -> int:
    """Of all storages that autograd keeps for the backward pass, parameters apart."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(images, detail=True)
    total = sum(kept[address].untyped_storage().nbytes() for address in kept.keys() - parameters)
    del out
    return total


def check(model: ModelConfig, router: RouterConfig, factor: float, tolerance: float) -> None:
    capacity = CapacityConfig(factor)
    vit = from_config(model, router, capacity, 10).train()
    kept = saved_bytes(vit, torch.randn(8, 3, model.image_size, model.image_size)) / 8
    assert cost(model, router, capacity, 10).activation_bytes_per_image == pytest.approx(kept, rel=tolerance)


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("model", [TINY, SMALL_B16], ids=["tiny", "small_b16"])
def test_activations_are_within_5_per_cent_of_what_autograd_keeps(
    model: ModelConfig, any_router_config: RouterConfig, factor: float
) -> None:
    check(model, any_router_config, factor, tolerance=0.05)


@pytest.mark.parametrize("head", ["token", "map"])
def test_activations_of_other_heads_with_qk_norm_are_within_10_per_cent(head: str) -> None:
    check(replace(TINY, head=head, qk_norm=True), ROUTERS["soft"], 1.0, tolerance=0.1)


def test_activations_under_a_transport_plan_with_gradients_are_within_15_per_cent() -> None:
    plan = SparseRouterConfig(affinity="sinkhorn", combine="plan")
    check(SMALL_B16, plan, 1.0, tolerance=0.15)


def test_state_is_16_bytes_a_parameter_under_adamw_and_12_under_sgd() -> None:
    parameter = torch.nn.Parameter(torch.ones(5))
    held = {}
    for name, optimizer in {
        "adamw": torch.optim.AdamW([parameter]),
        "sgd": torch.optim.SGD([parameter], lr=0.1, momentum=0.9),
    }.items():
        parameter.sum().backward()
        optimizer.step()
        moments = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
        held[name] = 4 * (2 + len(moments))  # weight and gradient
    assert {name: state_bytes(1, name) for name in held} == held


def test_b16_at_capacity_2_fits_22_gib_with_a_small_batch() -> None:
    fit = fits(cost(B16, ROUTERS["sinkhorn_ec"], CapacityConfig(2.0), 1000), 128, 22 * GIB)
    assert fit.device_batch in (8, 16, 32)
    assert fit.needed_bytes <= 22 * GIB
    assert 15.4e9 < fit.fixed_bytes < 16.5e9


def test_l16_does_not_fit_22_gib_and_says_what_it_needs() -> None:
    fit = fits(cost(L16, ROUTERS["softmax_ec"], CapacityConfig(1.0), 1000), 128, 22 * GIB)
    assert fit.device_batch == 0
    assert fit.smallest_batch == 8
    assert fit.needed_bytes == fit.fixed_bytes + 8 * fit.bytes_per_image > 50e9


@pytest.mark.parametrize(("batch", "memory", "expected"), [(96, 10, 96), (96, 3.4, 32), (40, 3.4, 40), (8, 10, 8)])
def test_the_device_batch_divides_the_batch_and_is_whole_groups(batch: int, memory: float, expected: int) -> None:
    price = replace(
        cost(B32, ROUTERS["softmax_ec"], CapacityConfig(), 10),
        params_total=10**8,
        working_bytes=0,
        activation_bytes_per_image=25 * 10**6,
    )
    fit = fits(price, batch, round(memory * 1e9))
    assert fit.device_batch == expected


def test_dense_and_soft_models_take_any_divisor() -> None:
    for router in (DenseRouterConfig(), ROUTERS["soft"]):
        price = cost(TINY, router, CapacityConfig(), 10)
        memory = price.state_bytes + price.working_bytes + 8 * price.activation_bytes_per_image
        assert fits(price, 9, memory).device_batch == 3
        assert fits(price, 7, memory).device_batch == 1


def test_half_precision_copies_of_the_weights_are_counted() -> None:
    price = cost(B16, ROUTERS["soft"], CapacityConfig(), 10)
    plain, mixed = fits(price, 8, GIB), fits(price, 8, GIB, autocast=True)
    assert mixed.fixed_bytes - plain.fixed_bytes == 2 * price.params_total


def test_a_batch_that_is_no_multiple_of_the_group_is_refused() -> None:
    with pytest.raises(ValueError, match="12 images is no multiple of the routing group of 8"):
        fits(cost(TINY, ROUTERS["softmax_ec"], CapacityConfig(), 10), 12, GIB)
