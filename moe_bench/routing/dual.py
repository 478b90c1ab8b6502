"""Two faster or sharper solvers of eq. 9, from its full dual. Axes and letters as in ``transport``.

Write the cap on nonzeros by its convex envelope: every entry is π = λz with 0 ≤ λ ≤ 1 and Σ_t λ ≤ C. With a multiplier
β for an expert's mass and s²/2 for its slots, tokens no longer see each other: token t takes expert r when
z = U − β − α exceeds s, at most one expert is taken in part (z = s), and its price α makes the row sum to 1.

At the optimum many tokens tie at an expert's threshold. λ tells which of them were meant, so ranking by
λ + TIE_BREAK · (U − α) gives better plans than U − α, and the same ones in float32 and float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIE_BREAK = 1e-3
SMALLEST_S = 1e-4  # at s = 0 the gradient in s vanishes, and s would stay there


def simplex_threshold(values: Tensor, mass: Tensor) -> Tensor:
    """τ (…, 1) such that (values − τ)₊ sums to ``mass``; ``values`` descend along the last axis."""
    count = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    return ((values.cumsum(-1) - mass) / count).amax(-1, keepdim=True)


def sweep_prices(utility: Tensor, mass: Tensor, capacity: int, free: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Block-coordinate descent: experts set (β, s) for given prices, tokens set prices for given (β, s), in turn.

    Gives the prices (G, 1, T) and the preference (G, E, T) by which experts choose.
    """
    price, picked = free, torch.zeros_like(utility)
    for _ in range(count):
        beta, s = _column_step(utility - price, mass, capacity)
        price, picked = _row_step(utility - beta, s)
        price = price + free
    return price, picked + TIE_BREAK * (utility - price)


def dual_prices(utility: Tensor, mass: Tensor, capacity: int, free: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Adam with cosine decay on (β, s), two numbers an expert; each step solves all rows exactly.

    Gives the prices (G, 1, T) and the preference (G, E, T) by which experts choose.
    """
    real = torch.isfinite(free)
    beta, s = _column_step(utility - free, mass, capacity)
    numbers = torch.cat([beta, s], dim=-1)  # (G, E, 2)
    first, second = torch.zeros_like(numbers), torch.zeros_like(numbers)
    for step in range(1, steps + 1):
        price, picked = _row_step(utility - beta, s)
        picked = picked * real
        taken = (picked * (utility - beta - price)).sum(-1, keepdim=True)
        slack = capacity - picked.sum(-1, keepdim=True)
        gradient = torch.cat([mass - taken, s * slack], dim=-1) / mass
        first = 0.8 * first + 0.2 * gradient
        second = 0.95 * second + 0.05 * gradient.square()
        lr = 0.015 * (1 + math.cos(math.pi * (step - 1) / steps))
        numbers = numbers - lr * (first / (1 - 0.8**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
        beta, s = numbers[..., :1], numbers[..., 1:].clamp_min(SMALLEST_S)
        numbers = torch.cat([beta, s], dim=-1)
    price, picked = _row_step(utility - beta, s)
    price = price + free
    return price, picked + TIE_BREAK * (utility - price)


def _column_step(offers: Tensor, mass: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """The best β and s (G, E, 1) for given prices: the simplex threshold, and how far the C-th offer is above it.

    Where there are slots for every token, slots cost nothing.
    """
    values = offers.topk(min(capacity, offers.shape[-1]), dim=-1).values
    beta = simplex_threshold(values, mass)
    plenty = torch.isfinite(offers[..., :1, :]).sum(-1, keepdim=True) <= capacity  # padding is so for every expert
    return beta, (values[..., -1:] - beta).clamp_min(0).masked_fill(plenty, 0)


def _row_step(offers: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The price α (G, 1, T) that makes each token's row sum to 1, and λ (G, E, T), given U − β and s.

    A token takes experts in the order of q = U − β − s. With m of them in full the price would be a_m; m is right as
    soon as a_m keeps the next one out. If a_m would keep the m-th out as well, that one is taken in part.
    """
    experts = offers.shape[-2]
    by_token = offers.mT.contiguous()  # (G, T, E); sorting is faster along the last axis
    q, order = (by_token - s.mT).sort(dim=-1, descending=True, stable=True)
    total = by_token.gather(-1, order).cumsum(-1)
    place = torch.arange(experts, device=offers.device)
    full_price = (total - 1) / (place + 1)
    following = torch.cat([q[..., 1:], torch.full_like(q[..., :1], -torch.inf)], dim=-1)
    m = (full_price >= following).int().argmax(-1, keepdim=True)  # the first that holds, zero-based
    price = full_price.gather(-1, m).minimum(q.gather(-1, m))
    surplus = total.gather(-1, m) - (m + 1) * price - 1
    z = (by_token.gather(-1, order.gather(-1, m)) - price).clamp_min(torch.finfo(offers.dtype).tiny)
    part = (1 - surplus / z).clamp(0, 1)
    picked = (m - place + part).clamp(0, 1)  # 1 before place m, the part at m, 0 after it
    return price.mT, torch.zeros_like(by_token).scatter(-1, order, picked).mT
