"""The parts of a vision transformer that are not routed, named and initialised so that timm's weights fit.

Axis letters: B images, N tokens of an image, D width, H hidden, A attention heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_bench.model.experts import BIAS_STD
from moe_bench.routing.init import lecun_normal_

NORM_EPS = 1e-6


def norm(dim: int, bias: bool = True) -> nn.LayerNorm:
    """The layer norm used everywhere in the model."""
    return nn.LayerNorm(dim, eps=NORM_EPS, bias=bias)


def xavier_linear(inputs: int, outputs: int, bound: float | None = None, bias_std: float = 0.0) -> nn.Linear:
    """A linear layer with a Xavier-uniform kernel; ``bound`` where several kernels are stacked in one."""
    layer = nn.Linear(inputs, outputs)
    bound = math.sqrt(6 / (inputs + outputs)) if bound is None else bound
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.normal_(layer.bias, std=bias_std)
    return layer


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens, row by row: (B, 3, S, S) → (B, N, D)."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        lecun_normal_(self.proj.weight, fan_in=3 * patch * patch)
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, N, D)."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, D) → (B, N, D); with ``qk_norm`` queries and keys are layer-normed a head."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        # The three kernels of (D, D) are drawn as such, not as one of (D, 3D).
        self.qkv = xavier_linear(dim, 3 * dim, bound=math.sqrt(6 / (dim + dim)))
        self.q_norm = norm(dim // heads, bias=False) if qk_norm else nn.Identity()
        self.k_norm = norm(dim // heads, bias=False) if qk_norm else nn.Identity()
        self.proj = xavier_linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, A, N, D/A)
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """D → H → D with tanh-approximated GELU; dropout after the activation and after the output."""

    def __init__(self, dim: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = xavier_linear(dim, hidden, bias_std=BIAS_STD)
        self.fc2 = xavier_linear(hidden, dim, bias_std=BIAS_STD)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        hidden = self.dropout(F.gelu(self.fc1(x), approximate="tanh"))
        return self.dropout(self.fc2(hidden))


class AttentionPool(nn.Module):
    """The "map" head: one learned query attends to all tokens, then an MLP with a residual. (B, N, D) → (B, D)."""

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        self.q = xavier_linear(dim, dim)
        self.kv = xavier_linear(dim, 2 * dim, bound=math.sqrt(6 / (dim + dim)))
        self.proj = xavier_linear(dim, dim)
        self.norm = norm(dim)
        self.mlp = Mlp(dim, hidden)
        bound = math.sqrt(6 / (1 + dim))  # Xavier for a (1, D) kernel
        nn.init.uniform_(self.latent, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, D)."""
        q = self.q(self.latent.expand(x.shape[0], -1, -1)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, A, N, D/A)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = self.proj(y)
        return (y + self.mlp(self.norm(y)))[:, 0]
