"""What keeps routing exact: float32 or better, no autocast, ties to the lower index, padding without division by zero.

G groups, T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays, so that gradients can be checked to the digit."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> torch.autocast:
    """A context on ``x``'s device in which matrix products keep their operands' precision."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def real_tokens(scores: Tensor, mask: Tensor | None) -> Tensor:
    """(G, T, 1) in the dtype of ``scores`` (G, T, E): 1 for a real token, 0 for padding.

    A group of nothing but padding counts as real, so that its marginals are not 0/0; the caller blanks its result.
    """
    if mask is None:
        return torch.ones_like(scores[..., :1])
    nothing_real = ~mask.any(-1, keepdim=True)
    return (mask | nothing_real).unsqueeze(-1).to(scores.dtype)


def top(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest ``scores`` along the last axis, largest first, equal ones by lower index.

    ``torch.topk`` breaks ties as it likes. Here each score becomes a whole number whose high half orders as the
    float32 does and whose low half counts down with the index: no two are equal, so every device agrees.
    """
    bits = (scores.detach().float() + 0.0).contiguous().view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats order backwards as integers
    last = scores.shape[-1] - 1
    countdown = torch.arange(last, -1, -1, device=scores.device)
    keys = torch.add(countdown, ordered, alpha=1 << 32)
    return last - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
