"""Who likes whom: a token-expert affinity matrix from the router's logits XW (eq. 6 and eq. 8).

Logits (G, T, E) go in, an affinity of the same shape comes out, float32 (float64 stays) whatever the autocast.
G groups, T tokens, E experts. The third affinity, eq. 9, has a module of its own: ``transport``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_bench.routing.numerics import real_tokens, wide

REFRESH = 5
"""Every this many Sinkhorn iterations, one is done on logarithms."""


def softmax(logits: Tensor) -> Tensor:
    """Eq. 6: the rows of ``logits`` (G, T, E) as probabilities over experts."""
    return wide(logits).softmax(-1)


def sinkhorn(logits: Tensor, iterations: int = 20, mask: Tensor | None = None) -> Tensor:
    """Eq. 8: the plan Π (G, T, E) whose rows sum to 1 and whose columns sum to T/E, entropy-regularised with ε = 1.

    As the authors do: exactly ``iterations`` rounds from a row potential of 0, columns first and rows last, so rows
    are exact and columns carry what error is left. Padding (``mask`` False) has no row, and T counts real tokens.
    Differentiable.

    Scaling a kernel exp(logits) is several times cheaper than working on logarithms, but overflows for logits of 88.
    So every REFRESH rounds one is done on logarithms and the potentials f, g are absorbed into a fresh kernel, whose
    rows sum to 1 and whose columns sum to at least 1/E. From there a round scales by a factor between 1/T and T at
    most, so the few until the next refresh stay in range for any finite logits.
    """
    if iterations < 1:
        raise ValueError(f"Sinkhorn needs at least 1 iteration, not {iterations}")
    logits = wide(logits)
    real = real_tokens(logits, mask)  # (G, T, 1)
    share = real.sum(-2, keepdim=True) / logits.shape[-1]  # (G, 1, 1), what each expert gets: T/E
    f = real.log()  # padding stays at -inf and so out of every column
    for done in range(0, iterations, REFRESH):
        g = share.log() - (logits + f).logsumexp(-2, keepdim=True)  # (G, 1, E)
        f = -(logits + g).logsumexp(-1, keepdim=True)  # (G, T, 1)
        kernel = (logits + f + g).exp()
        rows, v = torch.ones_like(f), torch.ones_like(g)
        for _ in range(min(REFRESH, iterations - done) - 1):
            v = share / (kernel * (real / rows)).sum(-2, keepdim=True)
            rows = (kernel * v).sum(-1, keepdim=True)
        f = f - rows.log() + real.log()
    plan = kernel * v / rows
    return plan if mask is None else plan * mask.unsqueeze(-1)
