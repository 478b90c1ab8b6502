"""Every case that the authors' JAX code and independent solvers left us, see ``tests/reference/README.md``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from moe_bench.routing import (
    Routing,
    expert_choice,
    gshard_loss,
    importance_loss,
    load_loss,
    sinkhorn,
    slots_per_expert,
    soft,
    softmax,
    sparse,
    token_choice,
)

FOLDER = Path(__file__).parents[1] / "reference"
FILES = {path.stem: np.load(path) for path in FOLDER.glob("*.npz")}
WEIGHTS, SINKHORN, SPARSE, SOFT, LOSSES = 5e-6, 1e-6, 1e-5, 2e-5, 1e-6


def cases(file: str, array: str) -> list[str]:
    """All cases of ``file`` that have ``array``."""
    return [key.removesuffix(f"/{array}") for key in FILES[file].files if key.endswith(f"/{array}")]


def get(file: str, key: str) -> Tensor:
    return torch.from_numpy(np.asarray(FILES[file][key]))


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=atol, rtol=0)


def check_routing(routing: Routing, file: str, case: str) -> None:
    dispatch, combine = routing.tensors()
    assert torch.equal(dispatch.to(torch.uint8), get(file, f"{case}/dispatch"))
    close(combine, get(file, f"{case}/combine"), WEIGHTS)


def test_no_file_of_ours_is_missing_or_without_cases() -> None:
    counts = {
        "token_choice": len(cases("token_choice", "dispatch")),
        "expert_choice": len(cases("expert_choice", "dispatch")),
        "sinkhorn": len(cases("sinkhorn", "plan")),
        "sparsity_constrained": len(cases("sparsity_constrained", "plan")),
        "soft": len(cases("soft", "dispatch")),
        "losses": len(cases("losses", "load")) + len(cases("losses", "importance")),
        "capacity": len(FILES["capacity"]["rows"]),
    }
    assert counts == {
        "token_choice": 16,
        "expert_choice": 4,
        "sinkhorn": 8,
        "sparsity_constrained": 4,
        "soft": 8,
        "losses": 6,
        "capacity": 440,
    }


def test_capacity_rounds_up_as_the_reference() -> None:
    for tokens, experts, k, factor, _, multiple_of, slots in FILES["capacity"]["rows"].astype(np.float64):
        factor = round(factor, 6)  # 1.05 went through float32
        assert slots_per_expert(int(tokens * k), int(experts), factor, "up", int(multiple_of)) == slots


@pytest.mark.parametrize("case", cases("token_choice", "dispatch"))
def test_softmax_token_choice(case: str) -> None:
    size, k, priority = case.split(".")[0], int(case.split(".")[1][1:]), "score" if case.endswith("bpr1") else "order"
    gates = softmax(get("token_choice", f"{size}/logits"))
    close(gates, get("token_choice", f"{size}/gates"), WEIGHTS)
    capacity = FILES["token_choice"][f"{case}/dispatch"].shape[-1]
    check_routing(token_choice(gates, gates, k, capacity, priority), "token_choice", case)
    close(
        importance_loss(get("token_choice", f"{size}/logits")),
        get("token_choice", f"{case}/metric.importance_loss"),
        LOSSES,
    )


@pytest.mark.parametrize("case", cases("expert_choice", "dispatch"))
def test_softmax_expert_choice(case: str) -> None:
    gates = softmax(get("expert_choice", f"{case.split('.')[0]}/logits"))
    capacity = FILES["expert_choice"][f"{case}/dispatch"].shape[-1]
    routing = expert_choice(gates, gates, capacity)
    check_routing(routing, "expert_choice", case)
    covered = FILES["expert_choice"][f"{case}/metric.ratio_processed_items_by_at_least_1_experts"].mean()
    assert routing.stats()["uncovered"].item() == pytest.approx(1 - covered, abs=1e-6)


@pytest.mark.parametrize("case", cases("sinkhorn", "plan"))
def test_sinkhorn_token_and_expert_choice(case: str) -> None:
    choice, size = case.split(".")[:2]
    logits = get("sinkhorn", f"{size}/logits")
    plan = sinkhorn(logits)
    close(plan, get("sinkhorn", f"{case}/plan"), SINKHORN)
    capacity = FILES["sinkhorn"][f"{case}/dispatch"].shape[-1]
    if choice == "token":
        routing = token_choice(plan, softmax(logits), int(case[-1]), capacity)
    else:
        routing = expert_choice(plan, softmax(logits), capacity)
    check_routing(routing, "sinkhorn", case)


@pytest.mark.parametrize("case", cases("sparsity_constrained", "plan"))
def test_sparsity_constrained_expert_choice(case: str) -> None:
    gates = softmax(get("sparsity_constrained", f"{case.split('.')[1]}/logits"))
    capacity = FILES["sparsity_constrained"][f"{case}/dispatch"].shape[-1]
    plan = sparse(gates, capacity, iterations=20, lr=1e-2)
    close(plan, get("sparsity_constrained", f"{case}/plan"), SPARSE)
    check_routing(expert_choice(plan, gates, capacity), "sparsity_constrained", case)


@pytest.mark.parametrize("case", cases("soft", "dispatch"))
def test_soft_moe(case: str) -> None:
    x, y = get("soft", f"{case}/x"), get("soft", f"{case}/expert_outputs")
    routing = soft(x, get("soft", f"{case}/mu"), get("soft", f"{case}/scale"))
    dispatch, combine = routing.tensors()
    close(dispatch, get("soft", f"{case}/dispatch"), SOFT)
    close(combine, get("soft", f"{case}/combine"), SOFT)
    close(routing.dispatch(x), get("soft", f"{case}/expert_inputs_f32"), SOFT)
    close(routing.combine(y), get("soft", f"{case}/outputs_f32"), SOFT)
    close(routing.dispatch(x.bfloat16().float()), get("soft", f"{case}/expert_inputs_bf16"), SOFT)
    close(routing.combine(y.bfloat16().float()), get("soft", f"{case}/outputs_bf16"), SOFT)


@pytest.mark.parametrize("size", cases("losses", "importance"))
def test_importance_and_gshard_loss(size: str) -> None:
    logits = get("losses", f"{size}/logits").requires_grad_()
    loss = importance_loss(logits)
    close(loss.detach(), get("losses", f"{size}/importance"), LOSSES)
    close(torch.autograd.grad(loss.mean(), logits)[0], get("losses", f"{size}/importance_grad"), LOSSES)
    close(gshard_loss(logits.detach()), get("losses", f"{size}/gshard_clean"), LOSSES)
    noisy = logits.detach() + get("losses", f"{size}/noise")
    close(gshard_loss(noisy), get("losses", f"{size}/gshard_noisy"), LOSSES)


@pytest.mark.parametrize("case", cases("losses", "load"))
def test_load_loss(case: str) -> None:
    size, k = case.split(".k")
    logits = get("losses", f"{size}/logits").requires_grad_()
    noisy = logits + get("losses", f"{size}/noise")
    loss = load_loss(logits, noisy, int(k), float(FILES["losses"][f"{size}/noise_std"]))
    close(loss.detach(), get("losses", f"{case}/load"), LOSSES)
    close(torch.autograd.grad(loss.mean(), logits)[0], get("losses", f"{case}/load_grad"), LOSSES)


TRANSPORTS = ("transport_T64_E8_std1", "transport_T64_E8_std3")


@pytest.mark.parametrize("file", TRANSPORTS)
def test_sinkhorn_against_pot(file: str) -> None:
    logits = get(file, "logits").unsqueeze(0)
    close(sinkhorn(logits, 20)[0], get(file, "Pi_ent20"), SINKHORN)
    close(sinkhorn(logits.double(), 2000)[0], get(file, "Pi_ent"), SINKHORN)


@pytest.mark.parametrize("c", [1, 2])
@pytest.mark.parametrize("file", TRANSPORTS)
def test_sparse_adam_against_jaxopt(file: str, c: int) -> None:
    utility, capacity = get(file, "U").float().unsqueeze(0), int(FILES[file][f"c{c}_C"])
    plan = sparse(utility, capacity)
    close(plan[0], get(file, f"c{c}_Pi_adam20"), SPARSE)
    close(sparse(utility, capacity, iterations=500)[0], get(file, f"c{c}_Pi_adam500"), SPARSE)
    chosen = expert_choice(plan, plan, capacity).token.sort(-1).values
    clear = get(file, f"c{c}_ec_adam20_gap") > 0
    assert clear.any()
    assert torch.equal(chosen[clear], get(file, f"c{c}_ec_adam20").mT.long().sort(-1).values[clear])
