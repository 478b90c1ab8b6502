"""The routers against the paper written down slowly (``reference``), on problems made to be nasty.

In float64, where every digit can be asked for; the one test in float32 says what it allows.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from moe_bench.routing import PRESETS, Capacity, SparseRouter, make_router, sinkhorn, soft, softmax, sparse

from .problems import Problem, TinyExperts, problems
from .reference import (
    ROUNDING,
    algorithm_1,
    algorithm_2,
    equation_2,
    equation_6,
    equation_8,
    equation_9_by_adam,
    equations_10_and_11,
    gshard,
    importance,
    load,
    of_each_group,
    sparse_router,
    sum_of_groups,
)

AFFINITIES, CHOICES = ("softmax", "sinkhorn", "sparse"), ("token", "expert")
COMBINES, PRIORITIES = st.sampled_from(["softmax", "plan"]), st.sampled_from(["order", "score"])


def router_of(problem: Problem, **options: object) -> tuple[SparseRouter, Tensor]:
    """A router with C = ``problem.capacity``, and tokens for which its logits are exactly those of the problem."""
    _, tokens, experts = problem.logits.shape
    x = torch.cat([problem.logits, problem.x], dim=-1)
    capacity = Capacity(problem.capacity * experts / tokens)
    router = SparseRouter(x.shape[-1], experts, k=problem.k, capacity=capacity, **options).double()  # type: ignore[arg-type]
    torch.nn.init.eye_(router.gate.weight)
    return router, x


def assert_gradients_close(ours: Tensor, theirs: Tensor, inputs: list[Tensor], atol: float = 1e-9) -> None:
    pairs = zip(*(torch.autograd.grad(y, inputs, allow_unused=True, materialize_grads=True) for y in (ours, theirs)))
    for fast, slow in pairs:
        torch.testing.assert_close(fast, slow, atol=atol, rtol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("affinity", AFFINITIES)
@given(problem=problems(), combine=COMBINES, priority=PRIORITIES, training=st.booleans())
def test_each_sparse_router_is_the_papers_in_routing_output_losses_and_gradients(
    affinity: str, choice: str, problem: Problem, combine: str, priority: str, training: bool
) -> None:
    noise = 0.0 if affinity == "sparse" else 1.0
    weights = {"importance": 0.3, "load": 0.5, "gshard": 0.7}
    options = {"affinity": affinity, "choice": choice, "combine": combine, "priority": priority}
    router, x = router_of(problem, noise=noise, **options, **weights)
    experts = TinyExperts(problem.logits.shape[-1], x.shape[-1])
    inputs = [x.requires_grad_(), router.gate.weight, experts.weight, experts.bias]

    torch.manual_seed(0)
    routing = router.train(training)(x, problem.mask)
    fast = routing.combine(experts(routing.dispatch(x)))
    assert routing.aux_loss is not None
    if affinity == "sparse":  # what rounding decides: offers at the threshold, and Adam's steps at saturated softmaxes
        assume(not ((routing.affinity > 0) & (routing.affinity < ROUNDING)).any())
        assume(problem.logits.abs().max() < 20)

    torch.manual_seed(0)
    clean = x @ router.gate.weight.T
    noise_std = noise / clean.shape[-1] if training else 0.0
    noisy = clean + noise_std * torch.randn(clean.shape, dtype=torch.float64)
    dispatch, combined = sparse_router(
        clean, noisy, **options, k=problem.k, capacity=problem.capacity, mask=problem.mask
    )
    slow = equation_2(x, dispatch, combined, experts)
    losses = 0.3 * sum_of_groups(importance, problem.mask, clean) + 0.7 * sum_of_groups(gshard, problem.mask, noisy)
    if noise_std:
        losses = losses + 0.5 * sum_of_groups(lambda *z: load(*z, problem.k, noise_std), problem.mask, clean, noisy)

    digits = 1e-8 if affinity == "sparse" else 1e-10  # Adam divides by 1e-8 and more
    assert torch.equal(routing.tensors()[0].double(), dispatch)
    torch.testing.assert_close(routing.tensors()[1], combined, atol=digits, rtol=1e-8)
    torch.testing.assert_close(fast, slow, atol=100 * digits, rtol=1e-8)
    torch.testing.assert_close(routing.aux_loss.sum(), losses, atol=1e-10, rtol=1e-8)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    fast, slow = (fast * cotangent).sum() + routing.aux_loss.sum(), (slow * cotangent).sum() + losses
    assert_gradients_close(fast, slow, inputs, atol=10 * digits * max(1.0, float(problem.logits.abs().max())))


@given(
    problem=problems(),
    scale=st.sampled_from([1.0, 7.5, -2.0]),
    normalize=st.booleans(),
    noise=st.sampled_from([0, 0.5]),
)
def test_soft_moe_is_equations_10_and_11_in_routing_output_and_gradients(
    problem: Problem, scale: float, normalize: bool, noise: float
) -> None:
    groups, tokens, experts = problem.logits.shape
    generator = torch.Generator().manual_seed(0)
    slots = torch.randn(5, experts, problem.capacity, generator=generator, dtype=torch.float64, requires_grad=True)
    mlps = TinyExperts(experts, 5)
    inputs = [problem.x.requires_grad_(), slots, torch.tensor(scale).double().requires_grad_(), mlps.weight, mlps.bias]
    x, _, factor, *_ = inputs

    torch.manual_seed(0)
    routing = soft(x, slots, factor, normalize, problem.mask, noise)
    fast = routing.combine(mlps(routing.dispatch(x)))

    torch.manual_seed(0)
    added = noise * torch.randn(groups, tokens, experts, problem.capacity, dtype=torch.float64)
    dense = [torch.zeros_like(routing.mixture) for _ in range(2)]
    for g in range(groups):
        real = torch.ones(tokens, dtype=torch.bool) if problem.mask is None else problem.mask[g]
        if real.any():
            tensors = equations_10_and_11(x[g, real], slots, factor, normalize, added[g, real])
            dense = [d.index_put((torch.tensor(g), real.nonzero()[:, 0]), one) for d, one in zip(dense, tensors)]
    slow = equation_2(x, *dense, mlps)

    torch.testing.assert_close(routing.tensors(), tuple(dense), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)
    assert_gradients_close(fast.square().sum(), slow.square().sum(), inputs)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("affinity", AFFINITIES)
@given(problem=problems(), priority=PRIORITIES)
def test_in_float32_the_algorithms_follow_the_affinity_to_the_last_bit(
    affinity: str, choice: str, problem: Problem, priority: str
) -> None:
    router, x = router_of(problem, affinity=affinity, choice=choice, priority=priority)
    routing = router.float().eval()(x.float(), problem.mask)
    assert routing.affinity.dtype == torch.float32
    if choice == "token":
        wanted = routing.affinity > 0 if affinity == "sparse" else None
        dispatch = algorithm_1(routing.affinity, problem.k, problem.capacity, priority, problem.mask, wanted)
    else:
        dispatch = algorithm_2(routing.affinity, problem.capacity, problem.mask)
    assert torch.equal(routing.tensors()[0].double(), dispatch)


@given(problems())
def test_in_float32_softmax_and_sinkhorn_keep_six_digits_of_the_logits(problem: Problem) -> None:
    logits = problem.logits.float()
    atol = 1e-6 * max(1.0, float(logits.abs().max()))  # logits of ±10,000 are themselves known to ±0.0005
    torch.testing.assert_close(softmax(logits).double(), equation_6(logits.double()), atol=atol, rtol=0)
    plan = of_each_group(equation_8, logits.double(), problem.mask)
    torch.testing.assert_close(sinkhorn(logits, mask=problem.mask).double(), plan, atol=atol, rtol=0)


@given(problems(max_tokens=24, kinds=("spread",)))
def test_in_float32_the_sparse_plan_keeps_five_digits_where_the_last_bit_decides_nothing(problem: Problem) -> None:
    """Adam's first step is ±lr even for a row that misses nothing but rounding: so it is in the authors' code."""
    utility = softmax(problem.logits.float()).double()
    generator = torch.Generator().manual_seed(2)
    last_bit = 1 + 1e-7 * torch.randn(utility.shape, generator=generator, dtype=torch.float64)
    plan, nudged = (
        of_each_group(lambda u: equation_9_by_adam(u, problem.capacity), u, problem.mask)
        for u in (utility, utility * last_bit)
    )
    assume((plan - nudged).abs().max() < 2e-6)
    ours = sparse(utility.float(), problem.capacity, mask=problem.mask)
    torch.testing.assert_close(ours.double(), plan, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
@given(problem=problems())
def test_autocast_to_bfloat16_around_it_changes_no_bit_of_a_routing(name: str, problem: Problem) -> None:
    _, tokens, experts = problem.logits.shape
    torch.manual_seed(0)
    capacity = Capacity(problem.capacity * experts / tokens)
    options = {} if name == "soft" else {"k": problem.k}
    router = make_router(name, experts, experts, tokens=tokens, capacity=capacity, **options).eval()
    x = problem.logits.float()
    plain = router(x, problem.mask)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(x, problem.mask)
    for inside, outside in zip(routing.tensors(), plain.tensors()):
        assert inside.dtype == torch.float32
        assert torch.equal(inside, outside)
