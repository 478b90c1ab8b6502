"""Soft MoE (section 2.6): slots are mixtures of tokens, and nothing is chosen, sorted or dropped.

G groups of one image each, T tokens, E experts, C slots, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_bench.routing.capacity import Capacity
from moe_bench.routing.dispatch import SoftRouting
from moe_bench.routing.init import lecun_normal_
from moe_bench.routing.noise import normal_like
from moe_bench.routing.numerics import no_autocast, real_tokens, wide


def soft(
    x: Tensor,
    slots: Tensor,
    scale: Tensor | float = 1.0,
    normalize: bool = True,
    mask: Tensor | None = None,
    noise: float = 0.0,
    noise_place: Tensor | None = None,
) -> SoftRouting:
    """Eq. 10-11: tokens ``x`` (G, T, D) against the features ``slots`` (D, E, C) of every slot.

    Z = ⟨x, Φ⟩; the dispatch tensor is its softmax over tokens, the combine tensor its softmax over all slots.
    The paper's eq. 10 is ``normalize=False``. The authors' code brings tokens and slots to unit length first and
    multiplies by a learned ``scale``, so that logits cannot grow with the width. ``noise`` is the standard deviation
    of what is added to Z, not divided by E; ``noise_place`` says which noise (see noise.py). Padding (``mask`` False)
    enters no mixture and gets none.
    """
    features = wide(x)
    directions = slots.flatten(1).to(features.dtype)  # (D, E·C)
    if normalize:
        features = _unit_length(features, dim=-1)
        directions = _unit_length(directions, dim=0)
    with no_autocast(x):
        logits = features @ (directions * scale)  # (G, T, E·C), Z
    if noise:
        logits = logits + noise * normal_like(logits, noise_place)
    real = real_tokens(logits, mask)
    mixture = logits.masked_fill(real == 0, -torch.inf).softmax(1)
    share = logits.softmax(-1)
    if mask is not None:
        mixture, share = mixture * mask.unsqueeze(-1), share * mask.unsqueeze(-1)
    shape = (*x.shape[:2], *slots.shape[1:])
    return SoftRouting(mixture.view(shape), share.view(shape), mask)


class SoftRouter(nn.Module):
    """The Soft MoE router: learned slot features, and a learned scale if tokens and slots are normalised."""

    noise_place: Tensor | None

    def __init__(
        self,
        dim: int,
        experts: int,
        *,
        tokens: int,
        capacity: Capacity = Capacity(),  # noqa: B008 (frozen)
        normalize: bool = True,
        scale: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        """``tokens`` of one image fix the number of slots; images of another size are mixed into as many."""
        super().__init__()
        self.normalize, self.noise = normalize, noise
        self.slots = nn.Parameter(torch.empty(dim, experts, capacity.slots(tokens, experts)))
        self.scale = nn.Parameter(torch.tensor([scale])) if normalize else scale
        self.register_buffer("noise_place", None, persistent=False)  # of the first group; see noise.py
        self.reset_parameters()

    def reset_parameters(self) -> None:
        lecun_normal_(self.slots, fan_in=self.slots.shape[0])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> SoftRouting:
        """Routes ``x`` (G, T, D), each group one image."""
        noise = self.noise if self.training else 0.0
        return soft(x, self.slots, self.scale, self.normalize, mask, noise, self.noise_place)

    def extra_repr(self) -> str:
        dim, experts, slots = self.slots.shape
        return f"{dim}, experts={experts}, slots={slots}, normalize={self.normalize}, noise={self.noise}"


def _unit_length(x: Tensor, dim: int) -> Tensor:
    return x * (x.square().sum(dim, keepdim=True) + 1e-6).rsqrt()
