"""From settings to a model."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isclass, signature
from typing import Any

import torch
from torch import Tensor, nn

from moe_bench.config.plugins import OwnCode, load_own, own_code
from moe_bench.config.schema import (
    CapacityConfig,
    ControlRouterConfig,
    DenseRouterConfig,
    ModelConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
)
from moe_bench.errors import ConfigError
from moe_bench.model.moe import MoE
from moe_bench.model.sizes import tokens_per_image
from moe_bench.model.vit import VisionTransformer
from moe_bench.routing import Capacity, ControlRouter, SoftRouter, SparseRouter
from moe_bench.routing.affinity import OwnAffinity


def from_config(
    model: ModelConfig,
    router: RouterConfig,
    capacity: CapacityConfig,
    num_classes: int,
    head_bias: float = 0.0,
) -> VisionTransformer:
    """The model that the settings describe. With ``DenseRouterConfig`` every block keeps its MLP.

    Raises:
        ValueError: sizes that do not fit each other.
        ConfigError: the user's own router or affinity cannot be imported, or does not take or give what it must.
    """
    blocks = [] if isinstance(router, DenseRouterConfig) else model.moe_blocks
    return VisionTransformer(
        image_size=model.image_size,
        patch=model.patch,
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        mlp=model.mlp,
        num_classes=num_classes,
        moe={number: _moe(model, router, capacity) for number in blocks},
        head=model.head,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        head_bias=head_bias,
    )


def _moe(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig) -> MoE:
    """One MoE layer with a router of its own."""
    return MoE(
        model.width,
        model.mlp,
        _router(model, router, capacity),
        model.experts,
        group_images=capacity.group_images,
        dropout=model.expert_dropout,
        identical_experts=model.identical_experts,
        bf16_dispatch=router.bf16_dispatch,
    )


def _router(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig) -> nn.Module:
    """The router of one layer: ours by its settings, or the user's class."""
    slots = Capacity(capacity.factor, capacity.rounding, capacity.multiple_of, capacity.eval_factor)
    tokens = tokens_per_image(model.image_size, model.patch, model.head)
    own = own_code(router)
    if type(router) is RouterConfig:
        assert own is not None
        made_from = {"capacity": slots, "tokens": tokens, **router.options}
        return _users_router(_users_class(own), model.width, model.experts, made_from)
    if isinstance(router, ControlRouterConfig):
        return ControlRouter(model.experts, kind=router.name, tokens=tokens, k=router.k, capacity=slots)
    if isinstance(router, SoftRouterConfig):
        return SoftRouter(
            model.width,
            model.experts,
            tokens=tokens,
            capacity=slots,
            normalize=router.normalize,
            scale=router.scale,
            noise=router.noise,
        )
    assert isinstance(router, SparseRouterConfig)
    return SparseRouter(
        model.width,
        model.experts,
        affinity=router.affinity if own is None else _users_affinity(own, model.experts),
        choice=router.choice,
        combine=router.combine,
        k=router.k,
        capacity=slots,
        noise=router.noise,
        importance=router.importance,
        load=router.load,
        gshard=router.gshard,
        z_loss=router.z_loss,
        iterations=router.iterations,
        solver=router.solver or "adam",
        solver_lr=1e-2 if router.solver_lr is None else router.solver_lr,
        priority=router.priority,
        bias_rate=router.bias_rate,
    )


def _users_router(users: type[nn.Module], dim: int, experts: int, made_from: dict[str, Any]) -> nn.Module:
    try:
        signature(users).bind(dim, experts, **made_from)
    except TypeError as error:
        called = f"{users.__name__}(dim, experts, {', '.join(f'{name}=' for name in made_from)})"
        raise ConfigError(f"the router is made by {called}, which it does not accept: {error}") from error
    return users(dim, experts, **made_from)


def _users_class(own: OwnCode) -> type[nn.Module]:
    users = load_own(own)
    if not (isclass(users) and issubclass(users, nn.Module)):
        raise ConfigError(
            f"{own.setting} is a {type(users).__name__}; a router is a class derived from torch.nn.Module"
        )
    return users


def _users_affinity(own: OwnCode, experts: int) -> Callable[..., Tensor]:
    """The user's function, tried on logits of two groups of four tokens."""
    users = load_own(own)
    if not callable(users):
        raise ConfigError(f"{own.setting} is a {type(users).__name__}; an affinity is a function of logits (G, T, E)")
    logits = torch.linspace(-2, 2, 8 * experts, device="cpu").view(2, 4, experts)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        affinity = OwnAffinity(users)(logits)
    if not affinity.isfinite().all():
        raise ConfigError(f"{own.setting} gave numbers that are not finite for logits between -2 and 2")
    result: Callable[..., Tensor] = users
    return result
