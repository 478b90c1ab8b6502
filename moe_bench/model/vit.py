"""A vision transformer in which some blocks hold an MoE layer instead of their MLP.

Axis letters: B images, S pixels a side, N tokens of an image, D width, H hidden.
Parameters of a dense model with a class token have timm's names and shapes, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe_bench.model.layers import Attention, AttentionPool, Mlp, PatchEmbed, norm
from moe_bench.model.moe import MoE
from moe_bench.model.sizes import tokens_per_image
from moe_bench.routing import Routing, SoftRouting

POSITION_STD = 0.02


class ViTOutput(NamedTuple):
    """What a forward pass found out on its way to the logits."""

    logits: Tensor
    """(B, classes)"""
    pre_logits: Tensor
    """(B, D): the features before the head, which the few-shot probe reads."""
    aux_loss: Tensor
    """Scalar: the routers' weighted losses, mean over groups, sum over layers. 0 where no router has one."""
    routing: dict[str, Routing | SoftRouting]
    """One routing for each MoE layer, by the name of its block."""


class Block(nn.Module):
    """Pre-norm attention and MLP or MoE, each with a residual around it."""

    def __init__(self, dim: int, heads: int, mlp: Mlp | MoE, *, qk_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attn = Attention(dim, heads, qk_norm=qk_norm)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = norm(dim)
        self.mlp = mlp

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Routing | SoftRouting | None]:
        """``x`` (B, N, D), ``valid`` (B,) → (B, N, D) and the routing, None for an MLP."""
        x = x + self.dropout(self.attn(self.norm1(x)))
        if not isinstance(self.mlp, MoE):
            return x + self.mlp(self.norm2(x)), None
        y, routing = self.mlp.forward_with_routing(self.norm2(x), valid)
        return x + y, routing


class VisionTransformer(nn.Module):
    """Images (B, 3, S, S) → logits (B, classes).

    Args:
        image_size: S.
        patch: pixels a side of a patch.
        width: D.
        depth: blocks.
        heads: attention heads; divides ``width``.
        mlp: H of the MLPs.
        num_classes: outputs of the head, whose kernel starts at zero.
        moe: the MoE layer of each block that has one, by zero-based block number.
        head: "token" reads a class token, "gap" the mean of all tokens, "map" an attention pool.
        qk_norm: layer-norm queries and keys.
        dropout: after the positions, the attention and inside the MLPs.
        head_bias: start of the head's bias; −ln(classes) starts a sigmoid loss at 1/classes.

    Raises:
        ValueError: sizes that do not divide, an unknown head, or a block number outside the model.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp: int,
        num_classes: int,
        moe: Mapping[int, MoE] | None = None,
        head: str = "token",
        qk_norm: bool = False,
        dropout: float = 0.0,
        head_bias: float = 0.0,
    ) -> None:
        super().__init__()
        moe = moe or {}
        tokens = tokens_per_image(image_size, patch, head)
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width of {width}")
        if outside := sorted(set(moe) - set(range(depth))):
            raise ValueError(f"MoE blocks {outside} are not in the model, whose blocks are 0 to {depth - 1}")
        self.image_size = image_size
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if head == "token" else None
        self.pos_embed = nn.Parameter(nn.init.normal_(torch.empty(1, tokens, width), std=POSITION_STD))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                moe[number] if number in moe else Mlp(width, mlp, dropout=dropout),
                qk_norm=qk_norm,
                dropout=dropout,
            )
            for number in range(depth)
        )
        self.norm = norm(width)
        self.attn_pool = AttentionPool(width, mlp, heads) if head == "map" else None
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, head_bias)

    def forward(self, images: Tensor, valid: Tensor | None = None, detail: bool = False) -> Tensor | ViTOutput:
        """``images`` (B, 3, S, S); ``valid`` (B,) bool marks padding images, which take no slot of any expert.

        Returns logits (B, classes), or everything in ``ViTOutput`` with ``detail``.
        """
        x = self._embed(images)
        routing: dict[str, Routing | SoftRouting] = {}
        for number, block in enumerate(self.blocks):
            x, routed = block(x, valid)
            if routed is not None:
                routing[f"blocks.{number}"] = routed
        pre_logits = self._pool(self.norm(x))
        logits = self.head(pre_logits)
        if not detail:
            return logits
        return ViTOutput(logits, pre_logits, _sum_of_losses(routing, like=logits), routing)

    def _embed(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → tokens with their positions (B, N, D); the class token comes first and has a position."""
        if images.shape[1:] != (3, self.image_size, self.image_size):
            size = self.image_size
            raise ValueError(f"images are {tuple(images.shape[1:])}, but this model reads (3, {size}, {size})")
        x = self.patch_embed(images)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.dropout(x + self.pos_embed)

    def _pool(self, x: Tensor) -> Tensor:
        """Normed tokens (B, N, D) → features (B, D)."""
        if self.cls_token is not None:
            return x[:, 0]
        return x.mean(dim=1) if self.attn_pool is None else self.attn_pool(x)


def _sum_of_losses(routing: Mapping[str, Routing | SoftRouting], like: Tensor) -> Tensor:
    """Mean over groups, sum over layers, as a float32 scalar on the device of ``like``."""
    total = torch.zeros((), device=like.device)
    for routed in routing.values():
        if routed.aux_loss is not None:
            total = total + routed.aux_loss.mean()
    return total
