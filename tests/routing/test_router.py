from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from moe_bench.routing import (
    PRESETS,
    Capacity,
    SparseRouter,
    gshard_loss,
    importance_loss,
    load_loss,
    make_router,
    relu,
    sigmoid,
    sinkhorn,
    softmax,
    sparse,
    token_choice,
    z_loss,
)
from moe_bench.routing.transport import SOLVERS

from .problems import Problem, problems

SIX = ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft")
COMBINATIONS = list(itertools.product(("softmax", "sinkhorn", "sparse"), ("token", "expert"), ("softmax", "plan")))


def tokens_of(groups: int = 2, tokens: int = 32, dim: int = 16) -> Tensor:
    return torch.randn(groups, tokens, dim, generator=torch.Generator().manual_seed(0))


def test_there_are_the_papers_six() -> None:
    assert tuple(PRESETS) == SIX


@pytest.mark.parametrize("name", SIX)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_each_router_routes_and_learns(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    router = make_router(name, 16, 4, capacity=Capacity(2.0), tokens=32)
    x = tokens_of().to(dtype).requires_grad_()
    routing = router(x)
    y = routing.combine(routing.dispatch(x).square())
    assert y.shape == x.shape
    assert y.dtype == dtype
    y.float().square().sum().backward()
    for parameter in router.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@pytest.mark.parametrize(("affinity", "choice", "combine"), COMBINATIONS)
def test_any_affinity_goes_with_any_choice_and_any_combine(affinity: str, choice: str, combine: str) -> None:
    torch.manual_seed(0)
    router = SparseRouter(16, 4, affinity=affinity, choice=choice, combine=combine, capacity=Capacity(2.0))
    x = tokens_of()
    mask = torch.ones(2, 32, dtype=torch.bool)
    mask[0, 20:] = mask[1] = False
    routing = router(x, mask)
    y = routing.combine(routing.dispatch(x))
    y.square().sum().backward()
    assert router.gate.weight.grad is not None
    assert router.gate.weight.grad.isfinite().all()
    assert router.gate.weight.grad.any()
    assert not y[~mask].any()


@given(problems(), st.sampled_from(SOLVERS))
def test_token_choice_by_the_sparse_plan_drops_nothing_and_seats_the_best_of_each_row(
    problem: Problem, solver: str
) -> None:
    plan = sparse(softmax(problem.logits), problem.capacity, solver, 5, mask=problem.mask)
    routing = token_choice(plan, plan, problem.k, problem.capacity, mask=problem.mask, wanted=plan > 0)
    seated = routing.tensors()[0].sum(-1) > 0
    assert torch.equal(seated.sum(1), routing.demand)
    assert torch.equal(seated.sum(-1), (plan > 0).sum(-1).clamp_max(problem.k))
    kept = torch.where(seated, plan, 0).sum(-1)
    torch.testing.assert_close(kept, plan.topk(problem.k).values.sum(-1))


def test_the_sparse_router_asks_by_token_for_what_the_plan_gives() -> None:
    torch.manual_seed(0)
    router = SparseRouter(16, 4, affinity="sparse", choice="token", capacity=Capacity(2.0))
    routing = router(tokens_of())
    assert not (routing.tensors()[0].sum(-1) * (routing.affinity == 0)).any()
    assert routing.stats()["dropped_wishes"] == 0
    assert (routing.demand.sum(-1) < 32 * 2).any()  # rows of one nonzero ask once, although k is 2


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_the_gradient_of_the_sparse_plan_is_that_of_its_projection_alone(choice: str) -> None:
    """Each expert's shares sum to a constant, so the gradients of its utilities sum to zero."""
    torch.manual_seed(0)
    router = SparseRouter(16, 4, affinity="sparse", choice=choice, combine="plan", capacity=Capacity(2.0))
    utility = softmax(tokens_of() @ router.gate.weight.T).detach().requires_grad_()
    plan = sparse(utility, 16)
    plan.square().sum().backward()
    assert utility.grad is not None
    torch.testing.assert_close(utility.grad.sum(1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    assert not utility.grad[plan == 0].any()
    router(tokens_of()).weight.square().sum().backward()
    assert router.gate.weight.grad is not None
    assert router.gate.weight.grad.any()


def plain(name: str, **options: Any) -> tuple[SparseRouter, Tensor]:
    """A router in evaluation and its logits on ``tokens_of()``."""
    torch.manual_seed(0)
    router = make_router(name, 16, 4, capacity=Capacity(2.0), **options)
    assert isinstance(router, SparseRouter)
    return router.eval(), tokens_of() @ router.gate.weight.T


def test_plans_decide_and_softmax_weighs() -> None:
    for name, plan in (("sinkhorn_ec", sinkhorn), ("sinkhorn_tc", sinkhorn)):
        router, logits = plain(name)
        routing = router(tokens_of())
        torch.testing.assert_close(routing.affinity, plan(logits))
        torch.testing.assert_close(routing.gates, softmax(logits))
    router, logits = plain("sparse_ec")
    routing = router(tokens_of())
    torch.testing.assert_close(routing.affinity, sparse(softmax(logits), 16))
    torch.testing.assert_close(routing.gates, softmax(logits))


def test_with_softmax_combine_nothing_of_the_plan_is_kept_for_the_backward_pass() -> None:
    kept = {}
    for combine in ("softmax", "plan"):
        router, _ = plain("sinkhorn_ec", combine=combine)
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
            router(tokens_of())
        kept[combine] = len(saved)
    assert kept["softmax"] < 10 < 60 < kept["plan"]


def test_plan_combine_gradients_are_those_of_the_unrolled_iterations() -> None:
    router = SparseRouter(4, 3, affinity="sinkhorn", choice="expert", combine="plan", capacity=Capacity(3.0)).double()
    x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def output(weight: Tensor) -> Tensor:
        routing = torch.func.functional_call(router, {"gate.weight": weight}, x)
        return routing.combine(routing.dispatch(x))

    assert torch.autograd.gradcheck(output, router.gate.weight.detach().requires_grad_())


@pytest.mark.parametrize(("affinity", "gate"), [("sigmoid", sigmoid), ("relu", relu)])
@pytest.mark.parametrize("choice", ["token", "expert"])
def test_sigmoid_and_relu_gates_choose_and_weigh_as_they_are(affinity: str, gate: Any, choice: str) -> None:
    torch.manual_seed(0)
    router = SparseRouter(16, 4, affinity=affinity, choice=choice, combine="plan", capacity=Capacity(2.0), noise=0.0)
    routing = router(tokens_of())
    gates = gate(tokens_of() @ router.gate.weight.T)
    dispatch, combine = routing.tensors()
    torch.testing.assert_close(combine.sum(-1), gates * dispatch.sum(-1))
    if choice == "token":
        best = torch.zeros_like(gates).scatter(-1, gates.topk(2).indices, 1.0)
        assert not (dispatch.sum(-1) > best).any()
    combine.square().sum().backward()
    assert router.gate.weight.grad is not None
    assert router.gate.weight.grad.any()


def test_a_token_asks_only_for_experts_with_a_positive_relu_gate() -> None:
    torch.manual_seed(0)
    router = SparseRouter(16, 4, affinity="relu", choice="token", combine="plan", k=3, noise=0.0)
    positive = (tokens_of() @ router.gate.weight.T > 0).sum(-1)
    assert router(tokens_of()).demand.sum(-1).tolist() == positive.clamp_max(3).sum(-1).tolist()
    assert (positive < 3).any()


def test_a_bias_sways_the_choice_and_not_the_weight() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"affinity": "sigmoid", "choice": "token", "combine": "plan", "noise": 0.0}
    router = SparseRouter(16, 4, **options, capacity=Capacity(4.0), k=1, bias_rate=1e-3)
    assert router.bias is not None
    still = router(tokens_of())
    router.bias += torch.tensor([0.0, 0.0, 2.0, 0.0])  # more than any sigmoid
    swayed = router(tokens_of())
    assert (still.demand > 0).all()
    assert swayed.demand.tolist() == [[0, 0, 32, 0]] * 2
    combine = swayed.tensors()[1]
    torch.testing.assert_close(combine.sum(-1)[..., 2], sigmoid(tokens_of() @ router.gate.weight.T)[..., 2])
    assert "bias" in router.state_dict()
    assert "bias" not in SparseRouter(16, 4, **options).state_dict()


@pytest.mark.parametrize("choice", ["token", "expert"])
@pytest.mark.parametrize("combine", ["softmax", "plan"])
def test_a_function_of_ones_own_is_an_affinity_like_the_others(choice: str, combine: str) -> None:
    """And as one of ours it takes the noisy logits, and passes gradients on only if it weighs."""
    given: dict[str, dict[str, Tensor]] = {}
    for name, affinity in (("ours", "sinkhorn"), ("own", sinkhorn)):
        torch.manual_seed(0)
        router = SparseRouter(16, 4, affinity=affinity, choice=choice, combine=combine, capacity=Capacity(2.0))
        routing = router(tokens_of())
        routing.weight.square().sum().backward()
        assert router.gate.weight.grad is not None
        given[name] = {"token": routing.token, "weight": routing.weight, "gradient": router.gate.weight.grad}
    torch.testing.assert_close(given["own"], given["ours"], rtol=0, atol=0)
    assert repr(router).startswith("SparseRouter(\n  moe_bench.routing.affinity:sinkhorn, ")


@pytest.mark.parametrize(("choice", "affinity"), [("token", "softmax"), ("expert", "softmax"), ("expert", "sparse")])
def test_evaluation_may_have_another_capacity_and_keeps_k(choice: str, affinity: str) -> None:
    router = SparseRouter(16, 4, affinity=affinity, choice=choice, capacity=Capacity(1.0, eval_factor=3.0))
    assert router(tokens_of()).token.shape == (4, 2 * 8)
    routing = router.eval()(tokens_of())
    assert routing.token.shape == (4, 2 * 24)
    assert router.k == 1
    if choice == "token":
        assert routing.demand.sum(-1).tolist() == [32, 32]


def test_losses_of_softmax_token_choice() -> None:
    router, logits = plain("softmax_tc")
    torch.manual_seed(1)
    routing = router.train()(tokens_of())
    torch.manual_seed(1)
    noisy = logits + 0.25 * torch.randn_like(logits)
    torch.testing.assert_close(routing.losses["importance"], importance_loss(logits))
    torch.testing.assert_close(routing.losses["load"], load_loss(logits, noisy, 2, 0.25))
    assert routing.aux_loss is not None
    torch.testing.assert_close(routing.aux_loss, 0.005 * (routing.losses["importance"] + routing.losses["load"]))
    assert routing.aux_loss.shape == (2,)


def test_gshard_is_of_the_noisy_logits_and_z_of_the_clean_ones() -> None:
    router, logits = plain("softmax_ec", gshard=0.1, z_loss=0.01)
    torch.manual_seed(1)
    routing = router.train()(tokens_of())
    torch.manual_seed(1)
    noisy = logits + 0.25 * torch.randn_like(logits)
    gshard, z = gshard_loss(noisy), z_loss(logits)
    torch.testing.assert_close(routing.losses, {"gshard": gshard, "z": z})
    torch.testing.assert_close(routing.aux_loss, 0.1 * gshard + 0.01 * z)


def test_without_noise_there_is_no_load_loss() -> None:
    router, _ = plain("softmax_tc")
    assert set(router.eval()(tokens_of()).losses) == {"importance"}
    router, _ = plain("softmax_tc", noise=0.0)
    assert set(router.train()(tokens_of()).losses) == {"importance"}


def test_the_other_routers_have_no_losses() -> None:
    for name in SIX[1:]:
        routing = make_router(name, 16, 4, tokens=32)(tokens_of())
        assert routing.losses == {}
        assert routing.aux_loss is None


@pytest.mark.parametrize(("factor", "k", "expected"), [(1.0, None, 1), (1.5, None, 2), (2.0, None, 2), (1.0, 2, 2)])
def test_choices_follow_the_capacity_and_slots_do_not_follow_the_choices(
    factor: float, k: int | None, expected: int
) -> None:
    router = make_router("softmax_tc", 16, 4, capacity=Capacity(factor), k=k)
    routing = router(tokens_of())
    assert routing.demand.sum(1).tolist() == [32 * expected] * 2
    assert routing.token.shape == (4, 2 * round(8 * factor))


def test_capacity_can_be_changed_for_evaluation() -> None:
    router, _ = plain("softmax_ec")
    router.capacity = Capacity(4.0)
    assert router(tokens_of()).token.shape == (4, 2 * 32)


def test_the_gate_starts_as_a_truncated_lecun_normal() -> None:
    torch.manual_seed(0)
    weight = make_router("softmax_ec", 256, 64).gate.weight
    assert weight.shape == (64, 256)
    assert weight.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert weight.abs().max().item() <= 2 / 16 / 0.8796
    assert make_router("softmax_ec", 16, 4).gate.bias is None


def test_routing_under_autocast_and_in_bfloat16_is_decided_in_float32() -> None:
    router, _ = plain("sparse_ec")
    x = tokens_of().bfloat16()
    expected = router(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(x)
    assert torch.equal(routing.token, expected.token)
    assert routing.weight.dtype == torch.float32


@pytest.mark.parametrize("name", SIX)
@given(problem=problems(kinds=("huge", "uniform", "wide")), training=st.booleans())
def test_nothing_is_ever_nan(name: str, problem: Problem, training: bool) -> None:
    _, tokens, experts = problem.logits.shape
    options = {} if name == "soft" else {"k": problem.k, "z_loss": 1e-3, "combine": "plan"}
    capacity = Capacity(problem.capacity * experts / tokens)
    router = make_router(name, experts, experts, tokens=tokens, capacity=capacity, **options).train(training)
    if isinstance(router, SparseRouter):
        torch.nn.init.eye_(router.gate.weight)  # so that the problem's logits are the router's
    x = problem.logits.float().requires_grad_()
    routing = router(x, problem.mask)
    y = routing.combine(routing.dispatch(x))
    assert y.isfinite().all()
    assert all(value.isfinite() for value in routing.stats().values())
    loss = y.sum() if routing.aux_loss is None else y.sum() + routing.aux_loss.sum()
    for gradient in torch.autograd.grad(loss, [x, *router.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", SIX)
def test_float64_stays_and_anything_narrower_is_routed_in_float32(name: str) -> None:
    for dtype, expected in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        router = make_router(name, 16, 4, capacity=Capacity(2.0), tokens=32).to(dtype)
        _, combine = router(tokens_of().to(dtype)).tensors()
        assert combine.dtype == expected


@pytest.mark.parametrize("solver", [*SIX, "sweeps", "dual"])
def test_on_a_gpu_everything_is_made_there_and_the_host_waits_for_nothing(solver: str) -> None:
    """On a pretended GPU, which refuses to mix devices and to tell the host a number."""
    name, options = (solver, {}) if solver in SIX else ("sparse_ec", {"solver": solver})
    router = make_router(name, 16, 4, capacity=Capacity(2.0), tokens=32, **options)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        parameters = {name: torch.empty(p.shape) for name, p in router.named_parameters()}
        x, mask = torch.empty(2, 32, 16), torch.empty(2, 32, dtype=torch.bool)
        routing = torch.func.functional_call(router, parameters, (x, mask))
        y = routing.combine(routing.dispatch(x))
        assert {made.device.type for made in (y, *routing.tensors(), *routing.stats().values())} == {"cuda"}


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    with pytest.raises(ValueError, match="no router 'sinkhorn_e'; did you mean 'sinkhorn_ec'"):
        make_router("sinkhorn_e", 16, 4)


def test_soft_needs_to_know_its_tokens() -> None:
    with pytest.raises(ValueError, match="tokens="):
        make_router("soft", 16, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affinity": "cosine"}, "softmax, sigmoid, relu, sinkhorn, sparse, not 'cosine'"),
        ({"affinity": "sigmoid"}, "sigmoid gates weigh the outputs themselves: use combine='plan'"),
        ({"affinity": "relu"}, "relu gates weigh the outputs themselves: use combine='plan'"),
        ({"bias_rate": 0.001}, "those that choose are all full already"),
        ({"choice": "both"}, "token, expert, not 'both'"),
        ({"combine": "mean"}, "softmax, plan, not 'mean'"),
        ({"solver": "newton"}, "adam, sweeps, dual, not 'newton'"),
        ({"priority": "age"}, "order, score, not 'age'"),
        ({"choice": "token", "k": 5}, "k=5 of 4 experts"),
    ],
)
def test_wrong_options_are_refused_with_the_right_ones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseRouter(16, 4, **({"affinity": "softmax", "choice": "expert"} | options))
