"""The paper written down slowly: Algorithms 1 and 2 as loops, eq. 2 as sums over T×E×C tensors, eq. 8 and 9 by group.

Nothing here is shared with the package.

G groups, T tokens, E experts, C slots, D width, K choices.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def algorithm_1(affinity: Tensor, k: int, capacity: int, priority: str, mask: Tensor | None) -> Tensor:
    """The dispatch tensor D (G, T, E, C) of token choice. Scores are compared in float32, ties to the lower index."""
    groups, tokens, experts = affinity.shape
    scores = affinity.detach().float().numpy()
    dispatch = torch.zeros(groups, tokens, experts, capacity)
    for g in range(groups):
        real = [t for t in range(tokens) if mask is None or mask[g, t]]
        if priority == "score":
            real.sort(key=lambda t, g=g: -scores[g, t].max())  # Python's sort is stable
        for i in range(k):
            for t in real:
                r = sorted(range(experts), key=lambda r, g=g, t=t: -scores[g, t, r])[i]
                c = int(dispatch[g, :, r].sum())
                if c < capacity:
                    dispatch[g, t, r, c] = 1
    return dispatch


def algorithm_2(affinity: Tensor, capacity: int, mask: Tensor | None) -> Tensor:
    """The dispatch tensor D (G, T, E, C) of expert choice. Scores are compared in float32, ties to the lower index."""
    groups, tokens, experts = affinity.shape
    scores = affinity.detach().float().numpy()
    dispatch = torch.zeros(groups, tokens, experts, capacity)
    for g in range(groups):
        real = [t for t in range(tokens) if mask is None or mask[g, t]]
        for r in range(experts):
            best = sorted(real, key=lambda t, g=g, r=r: -scores[g, t, r])
            for c, t in enumerate(best[:capacity]):
                dispatch[g, t, r, c] = 1
    return dispatch


def equation_2(x: Tensor, dispatch: Tensor, combine: Tensor, experts: torch.nn.Module) -> Tensor:
    """MoE(X) (G, T, D) from dense routing tensors (G, T, E, C); ``experts`` maps (E, N, D) to the same shape."""
    groups, tokens, dim = x.shape
    out = []
    for g in range(groups):
        slots = torch.einsum("td,trc->rcd", x[g], dispatch[g])
        out.append(torch.einsum("trc,rcd->td", combine[g], experts(slots)))
    return torch.stack(out).view(groups, tokens, dim)


def equation_8(logits: np.ndarray, iterations: int) -> np.ndarray:
    """Sinkhorn's plan (T, E) of one group, in float64 and on logarithms; columns first, rows last."""
    logits = logits.astype(np.float64)
    tokens, experts = logits.shape
    f = np.zeros((tokens, 1))
    for _ in range(iterations):
        g = math.log(tokens / experts) - np.logaddexp.reduce(logits + f, axis=0, keepdims=True)
        f = -np.logaddexp.reduce(logits + g, axis=1, keepdims=True)
    return np.exp(logits + f + g)


def column_projection(offers: np.ndarray, mass: float, capacity: int) -> np.ndarray:
    """One expert's share (T,): ``mass`` over its ``capacity`` best offers, the nearest point of that simplex.

    By bisection on the threshold, not by a formula. Offers are compared in float32, ties to the lower index.
    """
    best = np.argsort(-offers.astype(np.float32), kind="stable")[:capacity]
    low, high = offers[best].min() - mass - 1, offers[best].max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(offers[best] - middle, 0).sum() > mass else (low, middle)
    share = np.zeros_like(offers)
    share[best] = np.maximum(offers[best] - low, 0)
    return share


def equation_9_by_adam(utility: np.ndarray, capacity: int, steps: int = 20, lr: float = 1e-2) -> np.ndarray:
    """The authors' plan (T, E) of one group: Adam on token prices, then one projection a column."""
    tokens, experts = utility.shape
    mass = tokens / experts

    def plan(price: np.ndarray) -> np.ndarray:
        columns = [column_projection(utility[:, r] - price, mass, capacity) for r in range(experts)]
        return np.stack(columns, axis=1)

    price, first, second = np.zeros(tokens), np.zeros(tokens), np.zeros(tokens)
    for step in range(1, steps + 1):
        missing = 1 - plan(price).sum(1)
        first = 0.9 * first + 0.1 * missing
        second = 0.999 * second + 0.001 * missing**2
        price = price - lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if np.linalg.norm(missing) <= 1e-3:
            break
    return plan(price)


def semi_dual(utility: np.ndarray, price: np.ndarray, capacity: int) -> float:
    """D(α), an upper bound of eq. 9 for any prices α (T,)."""
    tokens, experts = utility.shape
    total = price.sum()
    for r in range(experts):
        offers = utility[:, r] - price
        share = column_projection(offers, tokens / experts, capacity)
        total += offers @ share - share @ share / 2
    return float(total)
