"""Settings become the model they describe; a whole model trains with every router."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from example_models import B16, ROUTERS, TINY
from torch import Tensor, nn

from moe_bench import config
from moe_bench.config.schema import (
    CapacityConfig,
    ControlRouterConfig,
    DenseRouterConfig,
    RouterConfig,
    SparseRouterConfig,
)
from moe_bench.errors import ConfigError
from moe_bench.model import MoE, ViTOutput, from_config
from moe_bench.routing import (
    Capacity,
    ControlRouter,
    Routing,
    SoftRouter,
    SoftRouting,
    SparseRouter,
    expert_choice,
    softmax,
)

SMALL = replace(TINY, image_size=16, patch=4, width=32, depth=4, heads=2, mlp=64, experts=4, moe_blocks=[1, 3])


class TooFew(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()


class OwnRouter(nn.Module):
    """What a user writes: experts choose by fixed random scores."""

    def __init__(self, dim: int, experts: int, *, capacity: Capacity, tokens: int, spread: float = 1.0) -> None:
        super().__init__()
        self.capacity, self.tokens, self.spread = capacity, tokens, spread
        self.scores = nn.Parameter(torch.randn(experts, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Routing:
        affinity = softmax(self.spread * x @ self.scores.T)
        return expert_choice(affinity, affinity, self.capacity.slots(x.shape[1], len(self.scores)), mask)


def test_only_the_named_blocks_have_experts(router_config: RouterConfig) -> None:
    vit = from_config(SMALL, router_config, CapacityConfig(), 10)
    assert [isinstance(block.mlp, MoE) for block in vit.blocks] == [False, True, False, True]


def test_dense_keeps_every_mlp() -> None:
    vit = from_config(SMALL, DenseRouterConfig(), CapacityConfig(), 10)
    assert not any(isinstance(module, MoE) for module in vit.modules())
    assert "blocks.1.mlp.fc1.weight" in vit.state_dict()


def test_names_of_expert_and_router_parameters() -> None:
    vit = from_config(SMALL, ROUTERS["sinkhorn_ec"], CapacityConfig(), 10)
    block = [key.removeprefix("blocks.1.mlp.") for key in vit.state_dict() if key.startswith("blocks.1.mlp.")]
    assert sorted(block) == ["experts.b1", "experts.b2", "experts.w1", "experts.w2", "router.gate.weight"]


def test_every_setting_reaches_its_part() -> None:
    model = replace(SMALL, head="map", qk_norm=True, dropout=0.1, expert_dropout=0.2, identical_experts=False)
    router = SparseRouterConfig(
        "own", affinity="sparse", choice="token", combine="plan", k=3, noise=0.0, importance=0.1, load=0.2,
        gshard=0.3, z_loss=0.4, iterations=7, solver="adam", solver_lr=0.05, priority="score", bias_rate=0.5,
    )  # fmt: skip
    vit = from_config(model, router, CapacityConfig(1.5, "up", 4, group_images=3, eval_factor=3.0), 10, head_bias=-2.0)
    moe = vit.blocks[1].mlp
    assert isinstance(moe, MoE)
    assert isinstance(moe.router, SparseRouter)
    assert (moe.group_images, moe.experts.dropout.p, moe.experts.identical) == (3, 0.2, False)
    assert (vit.dropout.p, vit.blocks[1].dropout.p, vit.blocks[0].mlp.dropout.p) == (0.1, 0.1, 0.1)
    assert moe.router.capacity == Capacity(1.5, "up", 4, 3.0)
    assert moe.router.bias_rate == 0.5
    assert moe.router.loss_weights == {"importance": 0.1, "load": 0.2, "gshard": 0.3, "z": 0.4}
    made = [getattr(moe.router, key) for key in ("affinity", "choice", "combine", "k", "noise", "iterations")]
    assert made == ["sparse", "token", "plan", 3, 0.0, 7]
    assert (moe.router.solver, moe.router.solver_lr, moe.router.priority) == ("adam", 0.05, "score")
    assert vit.attn_pool is not None
    assert isinstance(vit.blocks[0].attn.q_norm, nn.LayerNorm)
    assert torch.equal(vit.head.bias, torch.full((10,), -2.0))


def test_bf16_dispatch_rounds_what_is_sent_and_not_the_routing(router_config: RouterConfig) -> None:
    torch.manual_seed(0)
    exact, rounding = (
        from_config(SMALL, replace(router_config, bf16_dispatch=on), CapacityConfig(group_images=2), 10).eval()
        for on in (False, True)
    )
    rounding.load_state_dict(exact.state_dict())
    layers = [vit.blocks[1].mlp for vit in (exact, rounding)]
    assert [layer.bf16_dispatch for layer in layers] == [False, True]
    x = torch.randn(4, 16, 32)
    (y, routing), (rounded_y, rounded_routing) = (layer.forward_with_routing(x) for layer in layers)
    torch.testing.assert_close(rounded_routing.tensors(), routing.tensors(), rtol=0, atol=0)
    assert 0 < (rounded_y - y).abs().max() < 6e-3
    assert rounded_y.dtype == torch.float32


def test_soft_settings_reach_the_router() -> None:
    soft = replace(ROUTERS["soft"], scale=3.0, noise=0.5)  # type: ignore[call-arg]
    router = from_config(SMALL, soft, CapacityConfig(2.0), 10).blocks[1].mlp.router
    assert isinstance(router, SoftRouter)
    assert (router.scale.item(), router.noise, tuple(router.slots.shape)) == (3.0, 0.5, (32, 4, 8))


def test_a_router_of_ones_own_is_built_from_its_path_and_options() -> None:
    mine = RouterConfig("mine", impl=f"{__name__}:OwnRouter", options={"spread": 2.0})
    vit = from_config(SMALL, mine, CapacityConfig(2.0), 10)
    router = vit.blocks[3].mlp.router
    assert isinstance(router, OwnRouter)
    assert (router.capacity.factor, router.tokens, router.spread) == (2.0, 16, 2.0)
    assert vit(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize("impl", ["no_such_package:Router", f"{__name__}:NoSuchRouter", "OwnRouter"])
def test_a_router_that_cannot_be_imported_is_refused_by_name(impl: str) -> None:
    with pytest.raises(ConfigError, match=f"router.impl={impl} cannot be imported"):
        from_config(SMALL, RouterConfig("mine", impl=impl), CapacityConfig(), 10)


def test_something_else_than_a_module_is_no_router() -> None:
    with pytest.raises(ConfigError, match=r"router.impl=.*:own_gates is a function; a router is a class derived from"):
        from_config(SMALL, RouterConfig("mine", impl=f"{__name__}:own_gates"), CapacityConfig(), 10)


def own_gates(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)).softmax(-1)


def one_gate(logits: Tensor) -> Tensor:
    return logits[..., :1]


def roots(logits: Tensor) -> Tensor:
    return logits.sqrt()


NO_FUNCTION = 3


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_an_affinity_of_ones_own_is_a_function_by_its_path(choice: str) -> None:
    router = SparseRouterConfig("own", affinity=f"{__name__}:own_gates", choice=choice, combine="plan", noise=0.0)
    vit = from_config(SMALL, router, CapacityConfig(2.0), 10)
    routing = vit(torch.randn(8, 3, 16, 16), detail=True).routing["blocks.1"]
    torch.testing.assert_close(routing.affinity.sum(-1), torch.ones(1, 8 * 16))
    assert torch.equal(routing.gates, routing.affinity)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one_gate", r"one_gate of .*test_factory.py gave a tensor \(2, 4, 1\) for logits \(2, 4, 4\)"),
        ("roots", r"roots gave numbers that are not finite for logits between -2 and 2"),
        ("NO_FUNCTION", r"NO_FUNCTION is a int; an affinity is a function of logits"),
        ("nothing", r"router.affinity=.*:nothing cannot be imported: AttributeError"),
    ],
)
def test_what_is_no_affinity_is_refused_when_the_model_is_made(name: str, said: str) -> None:
    router = SparseRouterConfig("own", affinity=f"{__name__}:{name}", combine="plan")
    with pytest.raises(ConfigError, match=said):
        from_config(SMALL, router, CapacityConfig(), 10)


@pytest.mark.parametrize("name", ["hash", "random"])
def test_controls_are_made_for_the_places_of_one_image(name: str) -> None:
    vit = from_config(SMALL, ControlRouterConfig(name, k=2), CapacityConfig(2.0, group_images=2), 10)
    router = vit.blocks[1].mlp.router
    assert isinstance(router, ControlRouter)
    assert (router.kind, router.k, tuple(router.table.shape)) == (name, 2, (16, 4))
    vit(torch.randn(4, 3, 16, 16)).sum().backward()


def test_blocks_outside_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MoE blocks \[4, 9\] are not in the model, whose blocks are 0 to 3"):
        from_config(replace(SMALL, moe_blocks=[1, 4, 9]), ROUTERS["soft"], CapacityConfig(), 10)


def test_detail_has_a_routing_for_each_moe_block_and_a_scalar_loss(router_name: str) -> None:
    vit = from_config(SMALL, ROUTERS[router_name], CapacityConfig(group_images=2), 10).train()
    out = vit(torch.randn(4, 3, 16, 16), detail=True)
    assert isinstance(out, ViTOutput)
    assert list(out.routing) == ["blocks.1", "blocks.3"]
    kind = SoftRouting if router_name == "soft" else Routing
    assert all(isinstance(routing, kind) for routing in out.routing.values())
    assert out.aux_loss.shape == ()
    assert (out.aux_loss > 0) == (router_name == "softmax_tc")


@pytest.mark.parametrize("affinity", ["softmax", "sinkhorn", "sparse"])
@pytest.mark.parametrize("choice", ["token", "expert"])
@pytest.mark.parametrize("combine", ["softmax", "plan"])
def test_any_affinity_choice_and_combine_is_made_by_configuration_alone(
    affinity: str, choice: str, combine: str
) -> None:
    torch.manual_seed(0)
    name = f"{affinity}_{'tc' if choice == 'token' else 'ec'}"
    noise = f"router.noise={int(affinity != 'sparse')}"
    solver = f"router.solver={'sweeps' if affinity == 'sparse' else 'null'}"
    typed = [f"router.name={name}", f"router.affinity={affinity}", f"router.choice={choice}", noise, solver]
    cfg = config.load([*typed, f"router.combine={combine}", "capacity=2"])
    vit = from_config(SMALL, cfg.router, replace(cfg.capacity, group_images=2), 10).train()
    out = vit(torch.randn(4, 3, 16, 16), detail=True)
    out.pre_logits.square().sum().backward()
    routers = [module for module in vit.modules() if isinstance(module, SparseRouter)]
    assert [(r.affinity, r.choice, r.combine) for r in routers] == [(affinity, choice, combine)] * 2
    assert all(r.gate.weight.grad is not None and r.gate.weight.grad.any() for r in routers)


def test_the_loss_is_the_mean_over_groups_summed_over_layers() -> None:
    vit = from_config(SMALL, ROUTERS["softmax_tc"], CapacityConfig(group_images=2), 10).train()
    out = vit(torch.randn(6, 3, 16, 16), detail=True)
    losses = [routing.losses for routing in out.routing.values()]
    expected = sum(0.005 * (loss["importance"].mean() + loss["load"].mean()) for loss in losses)
    torch.testing.assert_close(out.aux_loss, expected)


def test_a_model_learns_two_pictures_with_any_router(any_router_config: RouterConfig) -> None:
    torch.manual_seed(0)
    vit = from_config(SMALL, any_router_config, CapacityConfig(group_images=2), 2).train()
    optimizer = torch.optim.AdamW(vit.parameters(), lr=3e-3)
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    losses = []
    for _ in range(8):
        out = vit(images, detail=True)
        loss = nn.functional.cross_entropy(out.logits, labels) + out.aux_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in vit.parameters())


def test_evaluation_does_not_see_padding_images(any_router_config: RouterConfig) -> None:
    torch.manual_seed(0)
    vit = from_config(SMALL, any_router_config, CapacityConfig(group_images=4), 10).eval()
    nn.init.normal_(vit.head.weight)
    images, valid = torch.randn(8, 3, 16, 16), torch.arange(8) < 5
    other = torch.where(valid.view(-1, 1, 1, 1), images, 50 * torch.randn(8, 3, 16, 16))
    expected = vit(images, valid)[:5]
    torch.testing.assert_close(vit(other, valid)[:5], expected)
    torch.testing.assert_close(vit(images[:5]), expected)


def test_bf16_autocast_gives_nearly_the_same_logits_and_finite_gradients(any_router_config: RouterConfig) -> None:
    torch.manual_seed(0)
    vit = from_config(replace(SMALL, qk_norm=True), any_router_config, CapacityConfig(group_images=2), 10).eval()
    nn.init.normal_(vit.head.weight, std=0.1)
    images = torch.randn(4, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = vit(images, detail=True)
    torch.testing.assert_close(out.logits.float(), vit(images), atol=0.1, rtol=0.1)
    (out.logits.float().square().mean() + out.aux_loss).backward()
    for parameter in vit.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.slow
def test_b16_with_32_experts_is_built_within_a_minute() -> None:
    import time

    started = time.monotonic()
    from_config(B16, ROUTERS["sinkhorn_ec"], CapacityConfig(2.0), 1000)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(("name", "options"), [("TooFew", {}), ("OwnRouter", {"sprad": 2.0})])
def test_a_router_that_does_not_take_what_routers_are_made_from_is_told_so(name: str, options: dict[str, Any]) -> None:
    mine = RouterConfig("mine", impl=f"{__name__}:{name}", options=options)
    with pytest.raises(ConfigError, match=rf"made by {name}\(dim, experts, capacity=, tokens="):
        from_config(SMALL, mine, CapacityConfig(), 10)


def test_a_router_that_gives_something_else_than_a_routing_is_told_so() -> None:
    layer = MoE(8, 16, nn.Identity(), 2)
    layer.router.forward = lambda x, mask: x
    with pytest.raises(ConfigError, match="Identity gave a Tensor; a router returns a Routing"):
        layer(torch.randn(8, 4, 8))
