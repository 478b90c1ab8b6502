"""How much memory training takes, and which device batch fits. No torch.

Letters: D width, H hidden, N tokens of an image, T tokens of a group, E experts, C slots.
"""

from __future__ import annotations

from moe_bench.config.schema import ModelConfig, RouterConfig, SoftRouterConfig
from moe_bench.model.sizes import Sizes

FLOAT32 = 4  # bytes
LIBRARIES = 250_000_000
"""Bytes for workspaces and code that torch loads when it first runs."""


def state_bytes(params: int, optimizer: str = "adamw") -> int:
    """Weights, gradients and the optimiser's moments in float32: 16 bytes a parameter, 12 under sgd with momentum."""
    return params * FLOAT32 * (4 if optimizer == "adamw" else 3)


def working_bytes(model: ModelConfig, size: Sizes) -> int:
    """What a step needs whatever its batch, beside the state.

    With more than one device batch a step, the gradients of a layer exist twice until they are added up.
    """
    mlps = model.experts if size.moe_layers else 1
    return LIBRARIES + FLOAT32 * mlps * 2 * model.width * model.mlp


def activation_bytes(model: ModelConfig, router: RouterConfig, size: Sizes) -> int:
    """What autograd keeps of one image until the backward pass, in float32 and without dropout.

    Counts the inputs of products, norms and activations, which is all but a few per cent. Left out are index tables,
    masks and, where gradients run through a transport plan, the plan's iterations.
    """
    width, tokens = model.width, size.tokens
    token_values = 8 * width + 4 + model.heads  # inputs of both norms, attention and MLP; q, k, v; statistics
    token_values += 2 * (width + 2 * model.heads) * model.qk_norm
    ends = 3 * model.image_size**2 + tokens * width * (1 if model.head == "gap" else 2)
    if model.head == "map":
        ends += 3 * tokens * width
    mlp_values = (model.depth - size.moe_layers) * tokens * 2 * model.mlp  # before and after GELU
    moe_values = size.moe_layers * _moe_values(model, router, size) / max(size.group_images, 1)
    return round(FLOAT32 * (ends + model.depth * tokens * token_values + mlp_values + moe_values))


def _moe_values(model: ModelConfig, router: RouterConfig, size: Sizes) -> int:
    """Of a group in one MoE layer: rows into and out of the experts, hidden rows around GELU, and the routing."""
    rows = model.experts * size.slots
    routing = rows if isinstance(router, SoftRouterConfig) else model.experts
    return rows * 2 * (model.width + model.mlp) + 2 * size.group_tokens * routing
