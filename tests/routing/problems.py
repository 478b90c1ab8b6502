"""Routing problems for property-based tests, the nasty ones included, and small experts to route to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """Logits (G, T, E), tokens (G, T, D), a mask (G, T) or None, in float64, and how many slots and choices."""

    logits: Tensor
    x: Tensor
    mask: Tensor | None
    capacity: int
    k: int

    def __repr__(self) -> str:
        groups, tokens, experts = self.logits.shape
        mask = None if self.mask is None else self.mask.int().tolist()
        return (
            f"Problem(G={groups}, T={tokens}, E={experts}, C={self.capacity}, k={self.k}, mask={mask}, {self.logits})"
        )


KINDS = ("spread", "wide", "huge", "ties", "uniform", "duplicates")


@st.composite
def problems(draw: st.DrawFn, max_tokens: int = 12, masks: bool = True, kinds: tuple[str, ...] = KINDS) -> Problem:
    """T < E, T no multiple of E, C > T, E = 1, logits of ±10,000, ties, duplicate tokens, groups all padding."""
    groups, tokens, experts = draw(st.integers(1, 3)), draw(st.integers(1, max_tokens)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(groups, tokens, experts, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(kinds))
    if kind == "wide":
        logits = logits * 30
    elif kind == "huge":
        logits = 1e4 * logits.clamp(-1, 1)  # also many exact ties at ±10,000
    elif kind == "ties":
        logits = logits.round()
    elif kind == "uniform":
        logits = torch.zeros_like(logits)
    elif kind == "duplicates":
        logits = logits[:, torch.arange(tokens) // 2]
    padding = draw(st.sampled_from(["none", "some", "a whole group"])) if masks else "none"
    mask = None
    if padding != "none":
        mask = torch.rand(groups, tokens, generator=generator) > 0.4
        if padding == "a whole group":
            mask[-1] = False
    x = torch.randn(groups, tokens, 5, generator=generator, dtype=torch.float64)
    return Problem(logits, x, mask, draw(st.integers(1, tokens + 2)), draw(st.integers(1, min(experts, 3))))


class TinyExperts(nn.Module):
    """One layer per expert, (E, N, D) → (E, N, D), with a bias so that an empty slot's output is not zero."""

    def __init__(self, experts: int, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(experts, dim, dim, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(experts, 1, dim, generator=generator, dtype=torch.float64))

    def forward(self, slots: Tensor) -> Tensor:
        return torch.tanh(slots @ self.weight + self.bias)
