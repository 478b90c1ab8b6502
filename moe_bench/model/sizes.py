"""The whole numbers that follow from settings: tokens, groups, slots. No torch.

Letters: N tokens of an image, T tokens of a routing group, E experts, C slots of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_bench.config.schema import (
    HEADS,
    CapacityConfig,
    DenseRouterConfig,
    ModelConfig,
    RouterConfig,
    SoftRouterConfig,
)
from moe_bench.routing.capacity import slots_per_expert


def tokens_per_image(image_size: int, patch: int, head: str) -> int:
    """N: one token a patch, and one more for the class token of ``head="token"``.

    Raises:
        ValueError: the patch does not divide the image, or the head is unknown.
    """
    if head not in HEADS:
        raise ValueError(f"head {head!r} is none of {', '.join(HEADS)}")
    if image_size % patch:
        below, above = image_size // patch * patch, (image_size // patch + 1) * patch
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"a patch of {patch} pixels does not divide an image of {image_size}; use {near} pixels")
    return (image_size // patch) ** 2 + (head == "token")


@dataclass(frozen=True)
class Sizes:
    """What routing makes of a model's tokens. The group numbers are 0 in a dense model."""

    tokens: int  # N
    moe_layers: int
    group_images: int  # images routed together
    group_tokens: int  # T
    slots: int  # C


def sizes(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig) -> Sizes:
    """Raises ValueError where the patch does not divide the image or capacity is below one slot."""
    tokens = tokens_per_image(model.image_size, model.patch, model.head)
    if isinstance(router, DenseRouterConfig) or not model.moe_blocks:
        return Sizes(tokens, 0, 0, 0, 0)
    group_images = 1 if isinstance(router, SoftRouterConfig) else capacity.group_images
    group_tokens = group_images * tokens
    slots = slots_per_expert(group_tokens, model.experts, capacity.factor, capacity.rounding, capacity.multiple_of)
    return Sizes(tokens, len(model.moe_blocks), group_images, group_tokens, slots)
