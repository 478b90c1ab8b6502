"""What an MoE layer works and allocates: its gate and its experts, and nothing that grows as tokens × slots."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from moe_bench.model import MoE
from moe_bench.routing import Capacity, make_router

IMAGES, TOKENS, DIM, HIDDEN, EXPERTS, GROUP_IMAGES = 8, 64, 16, 32, 8, 4
SPARSE = ["softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec:adam", "sparse_ec:sweeps"]


def layer(name: str, capacity: float) -> MoE:
    """A layer in training mode; ``name`` may have a solver behind a colon."""
    torch.manual_seed(0)
    router, _, solver = name.partition(":")
    options = {"solver": solver} if solver else {}
    made = make_router(router, DIM, EXPERTS, capacity=Capacity(capacity), tokens=TOKENS, **options)
    return MoE(DIM, HIDDEN, made, EXPERTS, group_images=GROUP_IMAGES).train()


def slots(name: str, capacity: float) -> int:
    """Of one expert in the whole batch."""
    tokens = TOKENS if name == "soft" else GROUP_IMAGES * TOKENS
    return Capacity(capacity).slots(tokens, EXPERTS) * IMAGES * TOKENS // tokens


@pytest.mark.parametrize("capacity", [1.0, 2.0])
@pytest.mark.parametrize("name", [*SPARSE, "soft"])
def test_products_are_those_of_gate_and_experts_alone_and_twice_as_many_backward(name: str, capacity: float) -> None:
    moe, x = layer(name, capacity), torch.randn(IMAGES, TOKENS, DIM, requires_grad=True)
    rows = EXPERTS * slots(name, capacity)
    experts = 2 * 2 * rows * DIM * HIDDEN
    gate = 2 * IMAGES * TOKENS * DIM * EXPERTS
    mixing = 3 * 2 * TOKENS * DIM * rows  # logits, dispatch, combine; rows are of all images, tokens of one
    expected = experts + (mixing if name == "soft" else gate)
    with FlopCounterMode(display=False) as forward:
        y = moe(x)
    assert forward.get_total_flops() == expected
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == 2 * expected


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation makes, by its memory: a number expanded is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, tuple | list) else [result]:
            if isinstance(output, Tensor):
                self.elements = max(self.elements, output.untyped_storage().nbytes() // output.itemsize)
        return result


@pytest.mark.parametrize("name", SPARSE)
def test_nothing_is_larger_than_the_experts_hidden_rows_forward_and_backward(name: str) -> None:
    capacity = 2.0
    moe, x = layer(name, capacity), torch.randn(IMAGES, TOKENS, DIM, requires_grad=True)
    with Largest() as largest:
        moe(x).sum().backward()
    hidden_rows = EXPERTS * slots(name, capacity) * HIDDEN
    dense = IMAGES * TOKENS * EXPERTS * slots(name, capacity) * GROUP_IMAGES // IMAGES  # T×E×C of every group
    assert largest.elements == hidden_rows < dense / 3


def test_the_watch_sees_a_dense_routing_tensor() -> None:
    moe, x = layer("softmax_ec", 2.0), torch.randn(IMAGES, TOKENS, DIM)
    with Largest() as largest:
        moe.forward_with_routing(x)[1].tensors()
    assert largest.elements >= IMAGES * TOKENS * EXPERTS * slots("softmax_ec", 2.0) * GROUP_IMAGES // IMAGES


@pytest.mark.parametrize("name", [*SPARSE, "soft"])
def test_values_and_gradients_are_the_same_bit_for_bit_from_run_to_run(name: str) -> None:
    moe, x = layer(name, 2.0).eval(), torch.randn(IMAGES, TOKENS, DIM, requires_grad=True)

    def run() -> list[Tensor]:
        y = moe(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *moe.parameters()])]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))
