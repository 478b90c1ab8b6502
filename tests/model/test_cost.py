"""Arithmetic agrees with the models that torch builds: parameters and FLOPs to the digit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from example_models import B16, B32, L16, ROUTERS, TINY
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moe_bench.config.schema import CapacityConfig, ControlRouterConfig, DenseRouterConfig, ModelConfig, RouterConfig
from moe_bench.model import from_config
from moe_bench.model.cost import Cost, cost

CLASSES = 100


def counted(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig, images: int) -> tuple[int, int]:
    """Parameters of the real model and FLOPs that torch counts over its forward pass, without memory or time.

    The counter knows no fused attention for CPUs, so attention is computed in its plain form, which has as many.
    """
    with torch.device("meta"):
        vit = from_config(model, router, capacity, CLASSES)
    count = sum(parameter.numel() for parameter in vit.parameters())
    shapes = {name: value.shape for name, value in vit.state_dict().items()}
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        images_in = torch.empty(images, 3, model.image_size, model.image_size)
        torch.func.functional_call(vit, state, (images_in,))
    return count, counter.get_total_flops()


def check(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig, images: int = 8) -> None:
    parameters, flops = counted(model, router, capacity, images)
    price = cost(model, router, capacity, CLASSES)
    assert price.params_total == parameters
    assert price.flops_per_image * images == flops


@pytest.mark.parametrize("head", ["token", "map"])
def test_a_training_step_costs_what_torch_counts_forward_and_backward(
    any_router_config: RouterConfig, head: str
) -> None:
    model = replace(TINY, head=head)
    vit = from_config(model, any_router_config, CapacityConfig(2.0), CLASSES)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = vit(torch.randn(8, 3, model.image_size, model.image_size), detail=True)
        (output.logits.sum() + output.aux_loss).backward()
    price = cost(model, any_router_config, CapacityConfig(2.0), CLASSES)
    assert price.flops_per_image_training * 8 == counter.get_total_flops()


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_tiny_costs_what_torch_counts(any_router_config: RouterConfig, factor: float) -> None:
    check(TINY, any_router_config, CapacityConfig(factor))


def test_b16_at_capacity_2_costs_what_torch_counts(any_router_config: RouterConfig) -> None:
    check(B16, any_router_config, CapacityConfig(2.0))


@pytest.mark.parametrize("name", ["softmax_ec", "soft"])
@pytest.mark.parametrize("head", ["gap", "map"])
def test_other_heads_blocks_and_groups_cost_what_torch_counts(name: str, head: str) -> None:
    model = replace(TINY, head=head, qk_norm=True, moe_blocks=[4, 5], heads=2)
    check(model, ROUTERS[name], CapacityConfig(1.25, "up", multiple_of=4, group_images=4), images=4)


@pytest.mark.parametrize("name", ["hash", "random"])
def test_controls_have_no_gate_to_pay_for(name: str) -> None:
    check(TINY, ControlRouterConfig(name), CapacityConfig(1.5))
    one = cost(TINY, ControlRouterConfig(name, k=1), CapacityConfig(2.0), CLASSES)
    dense = cost(TINY, DenseRouterConfig(), CapacityConfig(), CLASSES)
    assert one.params_active == dense.params_total


@pytest.mark.parametrize("affinity", ["sigmoid", "relu"])
def test_gates_cost_the_same_whatever_they_are_made_of(affinity: str) -> None:
    router = replace(ROUTERS["softmax_tc"], affinity=affinity, combine="plan", bias_rate=0.001)  # type: ignore[call-arg]
    check(TINY, router, CapacityConfig(2.0))


def test_soft_without_normalisation_has_no_scale() -> None:
    soft = ROUTERS["soft"]
    plain = cost(TINY, replace(soft, normalize=False), CapacityConfig(), CLASSES)  # type: ignore[call-arg]
    assert plain.params_total == cost(TINY, soft, CapacityConfig(), CLASSES).params_total - len(TINY.moe_blocks)
    check(TINY, replace(soft, normalize=False), CapacityConfig())  # type: ignore[call-arg]


def priced(model: ModelConfig, name: str, factor: float) -> Cost:
    return cost(model, ROUTERS[name], CapacityConfig(factor), CLASSES)


@pytest.mark.parametrize(
    ("model", "tokens", "slots"), [(B32, 400, (12, 25)), (B16, 1576, (49, 98)), (L16, 1576, (49, 98))]
)
def test_groups_of_eight_images_have_the_papers_tokens_and_slots(
    model: ModelConfig, tokens: int, slots: tuple[int, int]
) -> None:
    for name in ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec"):
        for factor, expected in zip((1.0, 2.0), slots, strict=True):
            price = priced(model, name, factor)
            assert (price.group_images, price.tokens_per_group, price.slots_per_expert) == (8, tokens, expected)


def test_soft_counts_tokens_and_slots_of_one_image() -> None:
    for factor, slots in ((1.0, 6), (2.0, 12)):
        price = priced(B16, "soft", factor)
        assert (price.group_images, price.tokens_per_group, price.slots_per_expert) == (1, 197, slots)


def test_experts_of_b16_and_l16_are_most_of_their_parameters() -> None:
    assert priced(B16, "sinkhorn_ec", 2.0).expert_params == 6 * 32 * (2 * 768 * 3072 + 3072 + 768) == 906_706_944
    assert 963e6 < priced(B16, "sinkhorn_ec", 2.0).params_total < 965e6
    assert 3.4e9 < priced(L16, "softmax_ec", 1.0).params_total < 3.5e9


def test_active_parameters_are_those_of_the_dense_model_at_capacity_1_but_for_the_router() -> None:
    """Where tokens divide evenly over experts: C · E / T is then exactly 1."""
    dense = cost(TINY, DenseRouterConfig(), CapacityConfig(), CLASSES)
    gates = len(TINY.moe_blocks) * TINY.width * TINY.experts
    assert dense.params_active == dense.params_total
    for name in ("softmax_tc", "softmax_ec"):
        assert priced(TINY, name, 1.0).params_active == dense.params_total + gates


def test_active_parameters_count_no_more_experts_than_a_token_asks_for() -> None:
    one = replace(ROUTERS["softmax_tc"], k=1)  # type: ignore[call-arg]
    roomy = cost(TINY, one, CapacityConfig(2.0), CLASSES)
    assert roomy.params_active == priced(TINY, "softmax_tc", 1.0).params_active
    assert roomy.params_active < priced(TINY, "softmax_ec", 2.0).params_active


def test_a_dense_model_has_no_groups_slots_or_experts() -> None:
    price = cost(B16, DenseRouterConfig(), CapacityConfig(), 1000)
    assert (price.group_images, price.tokens_per_group, price.slots_per_expert, price.expert_params) == (0, 0, 0, 0)
    assert price.params_total == 86_567_656


def test_capacity_below_one_slot_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cost(B16, ROUTERS["soft"], CapacityConfig(0.05), CLASSES)


def test_asking_what_a_model_costs_loads_no_torch() -> None:
    program = "import sys; import moe_bench.model.cost, moe_bench.model.fit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
