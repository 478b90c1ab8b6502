"""How much memory training takes, and which device batch fits. No torch.

Letters: D width, H hidden, N tokens of an image, E experts, C slots.
"""

from __future__ import annotations

from moe_bench.config.schema import ModelConfig, RouterConfig, SoftRouterConfig
from moe_bench.model.sizes import Sizes

FLOAT32 = 4  # bytes


def state_bytes(params: int, optimizer: str = "adamw") -> int:
    """Weights, gradients and the optimiser's moments in float32: 16 bytes a parameter, 12 under sgd with momentum."""
    return params * FLOAT32 * (4 if optimizer == "adamw" else 3)


def activation_bytes(model: ModelConfig, router: RouterConfig, size: Sizes) -> int:
    """What autograd keeps of one image until the backward pass, in float32 and without dropout.

    Counted tensor by tensor for what dominates: inputs of products, norms and activations. Left out are index tables
    and masks.
    """
    width, tokens = model.width, size.tokens
    token_values = 8 * width + 4 + model.heads  # inputs of both norms, attention and MLP; q, k, v; statistics
    token_values += 2 * (width + 2 * model.heads) * model.qk_norm
    mlp_values = 2 * tokens * model.mlp  # before and after GELU
    ends = 3 * model.image_size**2 + tokens * width * (1 if model.head == "gap" else 2)
    if model.head == "map":
        ends += 3 * tokens * width
    kept = ends + model.depth * tokens * token_values + (model.depth - size.moe_layers) * mlp_values
    return round(FLOAT32 * (kept + size.moe_layers * _moe_values(model, router, size)))


def _moe_values(model: ModelConfig, router: RouterConfig, size: Sizes) -> float:
    """Of one image in one MoE layer: rows of width D into and out of the experts, hidden rows, and the routing."""
    rows = model.experts * size.slots
    group = rows * 2 * (model.width + model.mlp)
    if isinstance(router, SoftRouterConfig):
        group += 2 * size.group_tokens * rows  # dispatch and combine weights
    else:
        group += 2 * size.group_tokens * model.experts
    return group / size.group_images
