from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moe_bench.routing import (
    PRESETS,
    Capacity,
    Routing,
    SparseRouter,
    expert_choice,
    make_router,
    softmax,
    token_choice,
)

from .problems import Problem, problems

SPARSE_PRESETS = [name for name in PRESETS if name != "soft"]


def route(problem: Problem, choice: str, weights: Tensor) -> Routing:
    affinity = softmax(problem.logits)
    if choice == "token":
        return token_choice(affinity, weights, problem.k, problem.capacity, mask=problem.mask)
    return expert_choice(affinity, weights, problem.capacity, problem.mask)


@given(problems(), st.sampled_from(["token", "expert"]))
def test_empty_slots_are_zero_and_uncovered_tokens_get_zero(problem: Problem, choice: str) -> None:
    routing = route(problem, choice, softmax(problem.logits))
    dispatch, _ = routing.tensors()
    slots = routing.dispatch(problem.x + 7)
    used = dispatch.sum(1).transpose(0, 1).flatten(1).bool()  # (E, G·C)
    assert not slots[~used].any()
    y = routing.combine(torch.full_like(slots, 3.0))
    assert not y[~dispatch.any(-1).any(-1)].any()


def test_combine_weights_are_never_renormalised() -> None:
    gates = softmax(torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0)))
    routing = token_choice(gates, gates, k=2, capacity=12)
    y = routing.combine(torch.ones(4, 12, 1))
    torch.testing.assert_close(y[0, :, 0], gates.topk(2).values.sum(-1)[0])
    assert (y < 1).all()


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_weights_are_float32_and_outputs_have_the_dtype_of_the_experts(choice: str) -> None:
    generator = torch.Generator().manual_seed(0)
    gates = softmax(torch.randn(2, 30, 4, generator=generator))
    routing = token_choice(gates, gates, 2, 12) if choice == "token" else expert_choice(gates, gates, 12)
    x = torch.randn(2, 30, 8, generator=generator)
    assert routing.dispatch(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(routing.dispatch(x.bfloat16()).float(), routing.dispatch(x.bfloat16().float()))
    y = routing.dispatch(x).bfloat16()
    assert routing.weight.dtype == torch.float32
    assert torch.equal(routing.combine(y), routing.combine(y.float()).bfloat16())


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_autocast_outside_changes_no_sparse_routing(choice: str) -> None:
    router = SparseRouter(16, 4, affinity="sinkhorn", choice=choice, combine="plan", capacity=Capacity(2.0)).eval()
    x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    plain = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(x)
        y = routing.combine(routing.dispatch(x))
    assert torch.equal(routing.token, plain.token)
    assert torch.equal(routing.weight, plain.weight)
    assert torch.equal(y, plain.combine(plain.dispatch(x)))


def test_combine_is_the_same_bit_for_bit_from_run_to_run() -> None:
    generator = torch.Generator().manual_seed(0)
    gates = softmax(torch.randn(2, 400, 8, generator=generator))
    y = torch.randn(8, 2 * 200, 16, generator=generator)
    for routing in (expert_choice(gates, gates, 200), token_choice(gates, gates, 3, 200)):
        first = routing.combine(y)
        assert all(torch.equal(first, routing.combine(y)) for _ in range(5))


class Watch(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, and the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.names = 0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        for output in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(output, Tensor):
                self.largest = max(self.largest, output.numel())
        return result


@pytest.mark.parametrize("solver", ["adam", "sweeps", "dual"])
@pytest.mark.parametrize("name", SPARSE_PRESETS)
def test_no_tensor_of_t_e_c_elements_is_ever_made(name: str, solver: str) -> None:
    groups, tokens, experts, dim = 2, 128, 8, 4
    router = make_router(name, dim, experts, capacity=Capacity(2.0), solver=solver)
    x = torch.randn(groups, tokens, dim, requires_grad=True)
    mask = torch.ones(groups, tokens, dtype=torch.bool)
    with Watch() as watch:
        routing = router(x, mask)
        routing.combine(routing.dispatch(x) * 2).sum().backward()
        routing.stats()
    dense = groups * tokens * experts * router.capacity.slots(tokens, experts)
    assert watch.largest <= groups * tokens * (experts + 1) < dense / 25


@pytest.mark.parametrize("name", PRESETS)
def test_the_host_never_asks_the_device_for_a_number(name: str) -> None:
    router = make_router(name, 8, 4, capacity=Capacity(2.0), tokens=16)
    x, mask = torch.randn(2, 16, 8), torch.ones(2, 16, dtype=torch.bool)
    with Watch() as watch:
        routing = router(x, mask)
        routing.combine(routing.dispatch(x))
        routing.stats()
    asking = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::is_nonzero"}
    assert watch.names.isdisjoint(asking)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [*PRESETS, "sweeps", "dual"])
def test_every_router_compiles_into_one_graph(solver: str) -> None:
    name, options = (solver, {}) if solver in PRESETS else ("sparse_ec", {"solver": solver, "iterations": 3})
    router = make_router(name, 16, 4, capacity=Capacity(2.0), tokens=40, **options).eval()
    x = torch.randn(2, 40, 16)

    def layer(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        routing = router(x)
        return routing.combine(routing.dispatch(x)), routing.stats()

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
