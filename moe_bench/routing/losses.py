"""Auxiliary losses that balance the use of experts (Appendix A) or keep logits small, one value a group.

Logits (G, T, E) go in, (G,) comes out, unweighted. G groups, T tokens, E experts. Padding (``mask`` False) takes no
part, and a group of nothing but padding has loss 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_bench.routing.affinity import softmax
from moe_bench.routing.numerics import wide


def importance_loss(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """How unevenly the gates are spread: CV² over experts of Σ_t softmax(XW)[t, r]. Clean logits."""
    return _squared_variation(_sum_over_tokens(softmax(logits), mask))


def load_loss(
    clean_logits: Tensor, noisy_logits: Tensor, k: int, noise_std: float, mask: Tensor | None = None
) -> Tensor:
    """How unevenly tokens would be spread if the noise were drawn anew (eq. 12-15): CV² over experts of the load.

    The load of expert r is Σ_t P(XW[t, r] + δ > the k-th largest noisy logit of t), δ ~ N(0, ``noise_std``²).
    ``noise_std`` is what was added to the logits, a standard deviation of 1/E where the paper writes N(0, 1/E):
    its authors' code uses it so. The gradient also runs through the k-th largest value.
    """
    clean, noisy = wide(clean_logits), wide(noisy_logits)
    threshold = noisy.topk(k, dim=-1).values[..., -1:]
    wins = torch.special.ndtr((clean - threshold) / noise_std)
    return _squared_variation(_sum_over_tokens(wins, mask))


def gshard_loss(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """GShard's loss: E · Σ_r (share of tokens whose best expert is r) · (mean gate of r); 1 when balanced.

    Noisy logits in training. The share is a count and has no gradient.
    """
    gates = softmax(logits)
    experts = gates.shape[-1]
    best = F.one_hot(gates.argmax(-1), experts).to(gates.dtype)
    tokens = _sum_over_tokens(torch.ones_like(gates), mask).clamp_min(1)
    return experts * (_sum_over_tokens(best, mask) / tokens * (_sum_over_tokens(gates, mask) / tokens)).sum(-1)


def z_loss(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """How large the logits are: the mean over tokens of logsumexp(logits)² (ST-MoE's router z-loss). Clean logits."""
    squares = wide(logits).logsumexp(-1, keepdim=True).square()  # (G, T, 1)
    tokens = _sum_over_tokens(torch.ones_like(squares), mask).clamp_min(1)
    return (_sum_over_tokens(squares, mask) / tokens).squeeze(-1)


def _sum_over_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.sum(-2) if mask is None else (values * mask.unsqueeze(-1)).sum(-2)


def _squared_variation(amounts: Tensor) -> Tensor:
    """(standard deviation / mean)² over the experts of each group, and 0 for an all-zero row."""
    squared_mean = amounts.mean(-1).square()
    return amounts.var(-1, correction=0) / squared_mean.clamp_min(torch.finfo(amounts.dtype).tiny)
