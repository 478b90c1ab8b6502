"""What a model costs, by arithmetic alone: parameters, FLOPs and memory. No torch, so that asking is instant.

Letters: D width, H hidden, N tokens of an image, T tokens of a group, E experts, C slots, K choices of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_bench.config.schema import (
    CapacityConfig,
    ControlRouterConfig,
    ModelConfig,
    RouterConfig,
    SoftRouterConfig,
    token_choices,
)
from moe_bench.model.memory import activation_bytes, state_bytes, working_bytes
from moe_bench.model.sizes import Sizes, sizes


@dataclass(frozen=True)
class Cost:
    """The price of one model. Numbers of experts and groups are 0 for a dense model."""

    params_total: int
    params_active: int
    """Parameters that one token meets on average: all but the experts, and of these the share that works on it."""
    flops_per_image: float
    """Forward pass in training; a multiplication and an addition are 2. In are matrix products, convolution and
    attention, as torch's FLOP counter counts them: those of the gate, and Soft MoE's mixtures. Out is what works on
    single values or rows: norms, softmax, GELU, Sinkhorn, the sparse solver, moving and adding up rows."""
    flops_per_image_training: float
    """Of a training step: the forward pass and, twice as much, the backward, but for the gradient of the pictures,
    which nobody asks for. Activations that are computed twice to save memory count once."""
    group_images: int
    tokens_per_group: int
    slots_per_expert: int
    expert_params: int
    """Of all experts in all layers."""
    activation_bytes_per_image: int
    """What a float32 training step keeps of one image from the forward to the backward pass."""
    state_bytes: int
    """Weights, gradients and AdamW moments in float32."""
    working_bytes: int
    """What a training step needs beside state and activations, whatever its batch."""


def cost(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig, num_classes: int) -> Cost:
    """The price of ``from_config(model, router, capacity, num_classes)``, without building it.

    A router of the user's own (``router.impl``) is priced as a gate of (D, E) whose experts fill all C slots.

    Raises:
        ValueError: as ``sizes``.
    """
    size = sizes(model, router, capacity)
    experts = size.moe_layers * model.experts * mlp_params(model)
    others = _shared_params(model, size, num_classes) + size.moe_layers * _router_params(model, router, size)
    used = _experts_per_token(model, router, capacity, size)
    active = size.moe_layers * used * mlp_params(model)
    forward = _shared_flops(model, size, num_classes) + _routed_flops(model, router, size)
    return Cost(
        params_total=others + experts,
        params_active=others + round(active),
        flops_per_image=forward,
        flops_per_image_training=3 * forward - _embedding_flops(model),
        group_images=size.group_images,
        tokens_per_group=size.group_tokens,
        slots_per_expert=size.slots,
        expert_params=experts,
        activation_bytes_per_image=activation_bytes(model, router, size),
        state_bytes=state_bytes(others + experts),
        working_bytes=working_bytes(model, size),
    )


def mlp_params(model: ModelConfig) -> int:
    """Of one MLP, which is as large as one expert."""
    return 2 * model.width * model.mlp + model.mlp + model.width


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _shared_params(model: ModelConfig, size: Sizes, num_classes: int) -> int:
    """Everything outside MoE layers."""
    width, norm = model.width, 2 * model.width
    embedding = _linear(3 * model.patch**2, width) + size.tokens * width + width * (model.head == "token")
    attention = _linear(width, 3 * width) + _linear(width, width) + 2 * (width // model.heads) * model.qk_norm
    mlps = (model.depth - size.moe_layers) * mlp_params(model)
    pool = 0
    if model.head == "map":
        pool = width + 2 * _linear(width, width) + _linear(width, 2 * width) + norm + mlp_params(model)
    return embedding + model.depth * (attention + 2 * norm) + mlps + norm + pool + _linear(width, num_classes)


def _router_params(model: ModelConfig, router: RouterConfig, size: Sizes) -> int:
    """Of one layer: a gate, or one vector for each slot and their scale; nothing where tokens are not looked at."""
    if isinstance(router, ControlRouterConfig):
        return 0
    if isinstance(router, SoftRouterConfig):
        return model.width * model.experts * size.slots + router.normalize
    return model.width * model.experts


def _experts_per_token(model: ModelConfig, router: RouterConfig, capacity: CapacityConfig, size: Sizes) -> float:
    """Slots over tokens, C · E / T; under token choice no more than the K experts a token asks for."""
    if not size.moe_layers:
        return 0.0
    slots = size.slots * model.experts / size.group_tokens
    choices = token_choices(router, capacity)
    return slots if choices is None else min(slots, choices)


def _shared_flops(model: ModelConfig, size: Sizes, num_classes: int) -> int:
    """Of one image outside MoE layers: matrix products and convolution, as torch's FLOP counter counts them."""
    width, tokens = model.width, size.tokens
    attention = 8 * tokens * width**2 + 4 * tokens**2 * width  # q, k, v, output; q·k and weights·v
    mlp = 4 * width * model.mlp
    pool = 0
    if model.head == "map":
        pool = 4 * width**2 + 4 * tokens * width**2 + 4 * tokens * width + mlp  # q, output; k, v; attention; MLP
    dense = model.depth * attention + (model.depth - size.moe_layers) * tokens * mlp
    return _embedding_flops(model) + dense + pool + 2 * width * num_classes


def _embedding_flops(model: ModelConfig) -> int:
    """Of one image's patches, forward."""
    patches = (model.image_size // model.patch) ** 2
    return 2 * patches * 3 * model.patch**2 * model.width


def _routed_flops(model: ModelConfig, router: RouterConfig, size: Sizes) -> float:
    """Of one image in all MoE layers: a group's products over its images."""
    if not size.moe_layers:
        return 0.0
    rows = model.experts * size.slots
    group = rows * 4 * model.width * model.mlp
    if isinstance(router, SoftRouterConfig):
        group += 3 * 2 * size.group_tokens * rows * model.width  # logits, dispatch, combine
    elif not isinstance(router, ControlRouterConfig):
        group += 2 * size.group_tokens * model.width * model.experts  # gate
    return size.moe_layers * group / size.group_images
