"""Every array that the authors' JAX code left us for the routers, see ``tests/reference/README.md``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_numbers import FILES, Numbers
from torch import Tensor

from moe_bench.routing import (
    Capacity,
    Routing,
    SparseRouter,
    expert_choice,
    gshard_loss,
    importance_loss,
    load_loss,
    make_router,
    sinkhorn,
    slots_per_expert,
    soft,
    softmax,
    sparse,
    token_choice,
)

WEIGHTS, SINKHORN, SPARSE, SOFT, LOSSES = 5e-6, 1e-6, 1e-5, 2e-5, 1e-6
SIZES = ["s0", "s1"]


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=atol, rtol=0)


def router_of(name: str, numbers: Numbers, size: str, **options: float) -> SparseRouter:
    """The router ``name`` in evaluation, with the kernel of ``size``."""
    kernel = numbers.tensor(f"{size}/kernel")
    router = make_router(name, *kernel.shape, capacity=Capacity(1.0), **options).eval()
    assert isinstance(router, SparseRouter)
    router.gate.weight.data = kernel.T.contiguous()
    return router


def check_routing(routing: Routing, numbers: Numbers, case: str) -> None:
    dispatch, combine = routing.tensors()
    assert torch.equal(dispatch.to(torch.uint8), numbers.tensor(f"{case}/dispatch"))
    close(combine, numbers.tensor(f"{case}/combine"), WEIGHTS)


def check_metrics(routing: Routing, numbers: Numbers, case: str) -> None:
    """What the reference logs of an expert choice, one value a group; ratios count tokens in at least n experts."""
    dispatch, _ = routing.tensors()
    experts_of_token = dispatch.sum((2, 3))
    gates = (dispatch * routing.affinity.unsqueeze(-1)).sum(1)  # (G, E, C), of which every slot is filled
    planned = (routing.affinity > 0).sum(1)
    ours = {
        "auxiliary_loss": torch.zeros(()) if routing.aux_loss is None else routing.aux_loss,
        "max_selected_gate": gates.amax((1, 2)),
        "min_selected_gate": gates.amin((1, 2)),
        "num_experts_per_item_max": experts_of_token.amax(1),
        "num_experts_per_item_min": experts_of_token.amin(1),
        "num_items_per_expert_max": planned.amax(1),
        "num_items_per_expert_min": planned.amin(1),
        "num_items_per_expert_avg": planned.float().mean(1),
    }
    for n in (1, 2, 4, 8):
        ours[f"ratio_processed_items_by_at_least_{n}_experts"] = (experts_of_token >= n).float().mean(1)
    names = [key for key in numbers.arrays if key.startswith(f"{case}/metric.")]
    assert len(names) >= 8
    for key in names:
        close(ours[key.split("metric.")[1]].float(), numbers.tensor(key), SPARSE)


@pytest.mark.parametrize(
    ("file", "array", "count"),
    [
        ("token_choice", "dispatch", 16),
        ("expert_choice", "dispatch", 4),
        ("sinkhorn", "plan", 8),
        ("sparsity_constrained", "plan", 4),
        ("soft", "dispatch", 8),
        ("losses", "load", 4),
        ("losses", "importance", 2),
    ],
)
def test_no_case_is_missing(file: str, array: str, count: int) -> None:
    assert len(FILES[file].cases(array)) == count


def test_capacity_is_rounded_as_the_reference() -> None:
    rows = FILES["capacity"]["rows"].astype(np.float64)
    assert len(rows) == 440
    for tokens, experts, k, factor, mode, multiple_of, slots in rows:
        rounding = ("up", "nearest")[int(mode)]
        factor = round(factor, 6)  # 1.05 went through float32
        assert slots_per_expert(int(tokens * k), int(experts), factor, rounding, int(multiple_of)) == slots


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("file", ["token_choice", "expert_choice", "sinkhorn", "sparsity_constrained"])
def test_logits_are_tokens_times_kernel(file: str, size: str) -> None:
    numbers = FILES[file]
    logits = router_of("softmax_ec", numbers, size)._logits(numbers.tensor(f"{size}/x"))
    close(logits, numbers.tensor(f"{size}/logits"), WEIGHTS)


@pytest.mark.parametrize("case", FILES["token_choice"].cases("dispatch"))
def test_softmax_token_choice(case: str) -> None:
    numbers, size = FILES["token_choice"], case.split(".")[0]
    k, priority = int(case.split(".")[1][1:]), "score" if case.endswith("bpr1") else "order"
    logits = numbers.tensor(f"{size}/logits")
    gates = softmax(logits)
    close(gates, numbers.tensor(f"{size}/gates"), WEIGHTS)
    capacity = numbers[f"{case}/dispatch"].shape[-1]
    check_routing(token_choice(gates, gates, k, capacity, priority), numbers, case)
    close(importance_loss(logits), numbers.tensor(f"{case}/metric.importance_loss"), LOSSES)
    close(gshard_loss(logits), numbers.tensor(f"{case}/metric.gshard_loss"), LOSSES)


@pytest.mark.parametrize("case", FILES["token_choice"].cases("dispatch"))
def test_the_softmax_token_choice_router_adds_its_weighted_losses_up(case: str) -> None:
    numbers, size = FILES["token_choice"], case.split(".")[0]
    routing = router_of("softmax_tc", numbers, size)(numbers.tensor(f"{size}/x"))  # no load loss without noise
    assert routing.aux_loss is not None
    close(routing.aux_loss, numbers.tensor(f"{case}/metric.auxiliary_loss"), LOSSES)


@pytest.mark.parametrize("case", FILES["expert_choice"].cases("dispatch"))
def test_softmax_expert_choice(case: str) -> None:
    numbers, size = FILES["expert_choice"], case.split(".")[0]
    gates = softmax(numbers.tensor(f"{size}/logits"))
    close(gates, numbers.tensor(f"{size}/gates"), WEIGHTS)
    routing = expert_choice(gates, gates, numbers[f"{case}/dispatch"].shape[-1])
    check_routing(routing, numbers, case)
    check_metrics(routing, numbers, case)
    covered = numbers[f"{case}/metric.ratio_processed_items_by_at_least_1_experts"].mean()
    assert routing.stats()["uncovered"].item() == pytest.approx(1 - covered, abs=1e-6)


@pytest.mark.parametrize("case", FILES["sinkhorn"].cases("plan"))
def test_sinkhorn_token_and_expert_choice(case: str) -> None:
    numbers = FILES["sinkhorn"]
    choice, size = case.split(".")[:2]
    logits = numbers.tensor(f"{size}/logits")
    plan = sinkhorn(logits)
    close(plan, numbers.tensor(f"{case}/plan"), SINKHORN)
    capacity = numbers[f"{case}/dispatch"].shape[-1]
    if choice == "expert":
        routing = expert_choice(plan, softmax(logits), capacity)
        check_metrics(routing, numbers, case)
    else:
        routing = token_choice(plan, softmax(logits), int(case[-1]), capacity)
        assert router_of("sinkhorn_tc", numbers, size)(numbers.tensor(f"{size}/x")).aux_loss is None
        assert numbers[f"{case}/metric.auxiliary_loss"] == numbers[f"{case}/metric.importance_loss"] == 0
    check_routing(routing, numbers, case)


@pytest.mark.parametrize("case", FILES["sparsity_constrained"].cases("plan"))
def test_sparsity_constrained_expert_choice(case: str) -> None:
    numbers = FILES["sparsity_constrained"]
    gates = softmax(numbers.tensor(f"{case.split('.')[1]}/logits"))
    capacity = numbers[f"{case}/dispatch"].shape[-1]
    plan = sparse(gates, capacity, iterations=20, lr=1e-2)
    close(plan, numbers.tensor(f"{case}/plan"), SPARSE)
    routing = expert_choice(plan, gates, capacity)
    check_routing(routing, numbers, case)
    check_metrics(routing, numbers, case)


@pytest.mark.parametrize("case", FILES["soft"].cases("dispatch"))
def test_soft_moe(case: str) -> None:
    numbers = FILES["soft"]
    x, y = numbers.tensor(f"{case}/x"), numbers.tensor(f"{case}/expert_outputs")
    routing = soft(x, numbers.tensor(f"{case}/mu"), numbers.tensor(f"{case}/scale"))
    dispatch, combine = routing.tensors()
    ours = {
        "dispatch": dispatch,
        "combine": combine,
        "expert_inputs_f32": routing.dispatch(x),
        "outputs_f32": routing.combine(y),
        "expert_inputs_bf16": routing.dispatch(x.bfloat16().float()),
        "outputs_bf16": routing.combine(y.bfloat16().float()),
        "metric.auxiliary_loss": torch.zeros(()) if routing.aux_loss is None else routing.aux_loss,
        "metric.combine_weights_min_mean": routing.stats()["combine_min"],
        "metric.combine_weights_max_mean": routing.stats()["combine_max"],
        "metric.dispatch_weights_min_mean": routing.stats()["dispatch_min"],
        "metric.dispatch_weights_max_mean": routing.stats()["dispatch_max"],
    }
    for array, value in ours.items():
        close(value, numbers.tensor(f"{case}/{array}"), SOFT)


@pytest.mark.parametrize("size", SIZES)
def test_importance_and_gshard_loss(size: str) -> None:
    numbers = FILES["losses"]
    logits = numbers.tensor(f"{size}/logits").requires_grad_()
    loss = importance_loss(logits)
    close(loss.detach(), numbers.tensor(f"{size}/importance"), LOSSES)
    close(torch.autograd.grad(loss.mean(), logits)[0], numbers.tensor(f"{size}/importance_grad"), LOSSES)
    close(gshard_loss(logits.detach()), numbers.tensor(f"{size}/gshard_clean"), LOSSES)
    noisy = logits.detach() + numbers.tensor(f"{size}/noise")
    close(gshard_loss(noisy), numbers.tensor(f"{size}/gshard_noisy"), LOSSES)


@pytest.mark.parametrize("case", FILES["losses"].cases("load"))
def test_load_loss(case: str) -> None:
    numbers = FILES["losses"]
    size, k = case.split(".k")
    logits = numbers.tensor(f"{size}/logits").requires_grad_()
    noise_std = float(numbers[f"{size}/noise_std"])
    assert noise_std == 1 / logits.shape[-1]
    loss = load_loss(logits, logits + numbers.tensor(f"{size}/noise"), int(k), noise_std)
    close(loss.detach(), numbers.tensor(f"{case}/load"), LOSSES)
    close(torch.autograd.grad(loss.mean(), logits)[0], numbers.tensor(f"{case}/load_grad"), LOSSES)
