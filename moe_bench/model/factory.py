"""From settings to a model."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from torch import nn

from moe_bench.config.schema import (
    CapacityConfig,
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
from moe_bench.routing import Capacity, SoftRouter, SparseRouter


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
        ConfigError: ``router.impl`` cannot be imported, or does not take what a router is made from.
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
    slots = Capacity(capacity.factor, capacity.rounding, capacity.multiple_of)
    tokens = tokens_per_image(model.image_size, model.patch, model.head)
    if type(router) is RouterConfig:
        made_from = {"capacity": slots, "tokens": tokens, **router.options}
        return _users_router(_users_class(router), model.width, model.experts, made_from)
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
        affinity=router.affinity,
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
    )


def _users_router(users: type[nn.Module], dim: int, experts: int, made_from: dict[str, Any]) -> nn.Module:
    try:
        signature(users).bind(dim, experts, **made_from)
    except TypeError as error:
        called = f"{users.__name__}(dim, experts, {', '.join(f'{name}=' for name in made_from)})"
        raise ConfigError(f"the router is made by {called}, which it does not accept: {error}") from error
    return users(dim, experts, **made_from)


def _users_class(router: RouterConfig) -> type[nn.Module]:
    """The class that ``impl`` names as "package.module:Class", or that an installed package declares under ``name``."""
    declared = entry_points(group="moe_bench.routers", name=router.name)
    if router.impl is None and not declared:
        raise ConfigError(f"router {router.name!r} has no implementation; set router.impl=package.module:Class")
    where = router.impl or next(iter(declared)).value
    module, _, name = where.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"router.impl={where} cannot be imported ({error}); write package.module:Class of an importable module"
        ) from error
