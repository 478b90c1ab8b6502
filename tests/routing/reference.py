"""The paper written down slowly: its equations as sums, its algorithms as loops, the routers as T×E×C tensors.

Nothing here is shared with the package. Everything runs in float64 and can be differentiated, but for the search of
eq. 9. Functions of one group take no mask: they are given the real tokens alone.

G groups, T tokens, E experts, C slots, D width, K choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

ROUNDING = 1e-12  # an offer at the threshold to this gets nothing


def algorithm_1(
    affinity: Tensor, k: int, capacity: int, priority: str, mask: Tensor | None, wanted: Tensor | None = None
) -> Tensor:
    """The dispatch tensor D (G, T, E, C) of token choice. Scores are compared in float32, ties to the lower index."""
    groups, tokens, experts = affinity.shape
    scores = affinity.detach().float().numpy()
    dispatch = torch.zeros(groups, tokens, experts, capacity, dtype=torch.float64)
    for g in range(groups):
        queue = real_tokens(mask, g, tokens)
        if priority == "score":
            queue.sort(key=lambda t, g=g: -scores[g, t].max())  # Python's sort is stable
        for i in range(k):
            for t in queue:
                r = sorted(range(experts), key=lambda r, g=g, t=t: -scores[g, t, r])[i]
                c = int(dispatch[g, :, r].sum())
                if c < capacity and (wanted is None or wanted[g, t, r]):
                    dispatch[g, t, r, c] = 1
    return dispatch


def algorithm_2(affinity: Tensor, capacity: int, mask: Tensor | None) -> Tensor:
    """The dispatch tensor D (G, T, E, C) of expert choice. Scores are compared in float32, ties to the lower index."""
    groups, tokens, experts = affinity.shape
    scores = affinity.detach().float().numpy()
    dispatch = torch.zeros(groups, tokens, experts, capacity, dtype=torch.float64)
    for g in range(groups):
        for r in range(experts):
            best = sorted(real_tokens(mask, g, tokens), key=lambda t, g=g, r=r: -scores[g, t, r])
            for c, t in enumerate(best[:capacity]):
                dispatch[g, t, r, c] = 1
    return dispatch


def equation_2(x: Tensor, dispatch: Tensor, combine: Tensor, experts: torch.nn.Module) -> Tensor:
    """MoE(X) (G, T, D) from dense routing tensors (G, T, E, C); ``experts`` maps (E, N, D) to the same shape."""
    out = []
    for g in range(len(x)):
        slots = torch.einsum("td,trc->rcd", x[g], dispatch[g])
        out.append(torch.einsum("trc,rcd->td", combine[g], experts(slots)))
    return torch.stack(out).view(x.shape)


def equation_6(logits: Tensor) -> Tensor:
    """The softmax over experts; the largest logit is taken off first so that no exponential overflows."""
    powers = (logits - logits.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def equation_8(logits: Tensor, iterations: int = 20) -> Tensor:
    """Sinkhorn's plan (T, E) of one group, on logarithms; columns first, rows last."""
    logits = logits.double()
    tokens, experts = logits.shape
    f = logits.new_zeros(tokens, 1)
    for _ in range(iterations):
        g = math.log(tokens / experts) - (logits + f).logsumexp(0, keepdim=True)
        f = -(logits + g).logsumexp(1, keepdim=True)
    return (logits + f + g).exp()


def equation_8_by_scaling(logits: Tensor, iterations: int = 20) -> Tensor:
    """The same plan as diag(u) exp(logits) diag(v), as Sinkhorn wrote it; in float64 for logits up to ±300."""
    kernel = logits.double().exp()
    tokens, experts = logits.shape
    u = kernel.new_ones(tokens)
    for _ in range(iterations):
        v = tokens / experts / (kernel.T @ u)
        u = 1 / (kernel @ v)
    return u[:, None] * kernel * v


def equation_9_by_adam(utility: Tensor, capacity: int, steps: int = 20, lr: float = 1e-2) -> Tensor:
    """The authors' plan (T, E) of one group: Adam on token prices, then one projection a column.

    It stops after the step whose gradient norm is within 1e-3. Gradients see the prices as constants.
    """
    offers = utility.detach().numpy()
    tokens, experts = offers.shape
    mass = tokens / experts
    price, first, second = np.zeros(tokens), np.zeros(tokens), np.zeros(tokens)
    for step in range(1, steps + 1):
        columns = [column_projection(offers[:, r] - price, mass, capacity) for r in range(experts)]
        missing = 1 - sum(columns)
        first = 0.9 * first + 0.1 * missing
        second = 0.999 * second + 0.001 * missing**2
        price = price - lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if np.linalg.norm(missing) <= 1e-3:
            break
    plan = torch.zeros_like(utility)
    for r in range(experts):
        paid = utility[:, r] - torch.from_numpy(price)
        support = torch.from_numpy(column_projection(paid.detach().numpy(), mass, capacity) > 0)
        share = paid[support] - (paid[support].sum() - mass) / support.sum()
        plan = plan.index_put((support.nonzero()[:, 0], torch.tensor(r)), share)
    return plan


def prices_by_sweeps(utility: np.ndarray, capacity: int, sweeps: int) -> np.ndarray:
    """Token prices (T,) of one group: experts' exact best answer to prices, tokens' to that, in turn.

    An expert's threshold β leaves it its mass, and its C-th offer is s above that (0 with a slot for every token). A
    token's price is the lowest at which what it takes, U − β − α of all experts where that exceeds s, is at most 1.
    """
    tokens, experts = utility.shape
    price = np.zeros(tokens)
    for _ in range(sweeps):
        offers = utility - price[:, None]
        shares = [column_projection(column, tokens / experts, capacity) for column in offers.T]
        beta = np.array([(column - share)[share > 0].mean() for column, share in zip(offers.T, shares)])
        cth = np.sort(offers, axis=0)[::-1][min(capacity, tokens) - 1]
        s = np.zeros(experts) if capacity >= tokens else np.maximum(cth - beta, 0)
        for t in range(tokens):
            low, high = (utility[t] - beta).min() - s.max() - 2, (utility[t] - beta).max()
            for _ in range(60):
                middle = (low + high) / 2
                z = utility[t] - beta - middle
                low, high = (middle, high) if z[z > s].sum() > 1 else (low, middle)
            price[t] = high
    return price


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
    return np.where(share < ROUNDING, 0, share)


def semi_dual(utility: np.ndarray, price: np.ndarray, capacity: int) -> float:
    """D(α), an upper bound of eq. 9 for any prices α (T,)."""
    tokens, experts = utility.shape
    total = price.sum()
    for r in range(experts):
        offers = utility[:, r] - price
        share = column_projection(offers, tokens / experts, capacity)
        total += offers @ share - share @ share / 2
    return float(total)


def equations_10_and_11(
    x: Tensor, slots: Tensor, scale: Tensor | float = 1.0, normalize: bool = False, noise: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Soft MoE's dispatch and combine tensors (T, E, C) of one image, exponential by exponential.

    ``normalize``: tokens (T, D) and slots (D, E, C) over √(square sum + 1e-6) first, as the authors do.
    """
    if normalize:
        x = x / (x * x).sum(1, keepdim=True).add(1e-6).sqrt()
        slots = slots / (slots * slots).sum(0, keepdim=True).add(1e-6).sqrt()
    z = (scale * torch.einsum("td,drc->trc", x, slots) + noise).exp()
    return z / z.sum(0, keepdim=True), z / z.sum((1, 2), keepdim=True)


def importance(logits: Tensor) -> Tensor:
    """The importance loss of one group (T, E): squared coefficient of variation of the gates' column sums."""
    return squared_variation(equation_6(logits).sum(0))


def load(clean: Tensor, noisy: Tensor, k: int, noise_std: float) -> Tensor:
    """The load loss of one group (T, E), eq. 12-15: Φ by the error function, the threshold by sorting."""
    threshold = noisy.sort(dim=1, descending=True).values[:, k - 1 : k]
    needed = (threshold - clean) / noise_std
    wins = 1 - (1 + torch.erf(needed / math.sqrt(2))) / 2
    return squared_variation(wins.sum(0))


def gshard(logits: Tensor) -> Tensor:
    """GShard's loss of one group (T, E): the number of experts × Σ share of first choices × mean gate."""
    tokens, experts = logits.shape
    gates = equation_6(logits)
    counts = [sum(int(gates[t].argmax()) == r for t in range(tokens)) for r in range(experts)]
    return experts * sum(counts[r] / tokens * gates[:, r].sum() / tokens for r in range(experts))


def squared_variation(amounts: Tensor) -> Tensor:
    mean = amounts.sum() / len(amounts)
    return ((amounts - mean) ** 2).sum() / len(amounts) / mean**2


def sparse_router(
    clean: Tensor,
    noisy: Tensor,
    affinity: str,
    choice: str,
    combine: str,
    k: int,
    capacity: int,
    priority: str,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Dispatch and combine tensors (G, T, E, C) of any router of sections 2.1-2.5, from its logits (G, T, E)."""
    if affinity == "softmax":
        decides = gates = equation_6(noisy)
    elif affinity == "sinkhorn":
        decides = of_each_group(equation_8, noisy, mask)
        gates = equation_6(noisy if choice == "expert" else clean)
    else:
        decides = of_each_group(lambda u: equation_9_by_adam(u, capacity), equation_6(clean), mask)
        gates = equation_6(clean)
    weights = decides if combine == "plan" else gates
    if choice == "token":
        wanted = decides > 0 if affinity == "sparse" else None
        dispatch = algorithm_1(decides, k, capacity, priority, mask, wanted)
    else:
        dispatch = algorithm_2(decides, capacity, mask)
    return dispatch, dispatch * weights.unsqueeze(-1)


def of_each_group(plan: Callable[[Tensor], Tensor], scores: Tensor, mask: Tensor | None) -> Tensor:
    """``plan`` of the real tokens of each group of ``scores`` (G, T, E), and zero for padding."""
    out = torch.zeros_like(scores)
    for g in range(len(scores)):
        real = torch.tensor(real_tokens(mask, g, scores.shape[1]), dtype=torch.long)
        if len(real):
            out = out.index_put((torch.tensor(g), real), plan(scores[g, real]))
    return out


def sum_of_groups(loss: Callable[..., Tensor], mask: Tensor | None, *scores: Tensor) -> Tensor:
    """``loss`` of the real tokens of each group of ``scores`` (G, T, E), added up."""
    groups, tokens, _ = scores[0].shape
    total = torch.zeros((), dtype=torch.float64)
    for g in range(groups):
        real = real_tokens(mask, g, tokens)
        if real:
            total = total + loss(*(s[g, real] for s in scores))
    return total


def real_tokens(mask: Tensor | None, group: int, tokens: int) -> list[int]:
    return [t for t in range(tokens) if mask is None or mask[group, t]]
