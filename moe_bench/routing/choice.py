"""Who picks: Algorithm 1 (tokens choose experts) and Algorithm 2 (experts choose tokens).

An affinity (G, T, E) decides who goes where, ``weights`` (G, T, E) what the outputs count; both give a ``Routing``,
which holds which token sits in each slot. Scores are compared in float32, equal ones go to the lower index, and
padding (``mask`` False) takes no slot. G groups, T tokens, E experts, C slots, K choices.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_bench.routing.dispatch import Routing
from moe_bench.routing.numerics import top
from moe_bench.routing.words import PRIORITIES


def token_choice(
    affinity: Tensor,
    weights: Tensor,
    k: int,
    capacity: int,
    priority: str = "order",
    mask: Tensor | None = None,
    wanted: Tensor | None = None,
) -> Routing:
    """Algorithm 1: every token takes its ``k`` best experts as long as their buffers have room.

    All first choices come before all second choices. Among the same choice, tokens are served in their order, or by
    falling best affinity with ``priority="score"`` (batch-priority routing). What finds its expert full is dropped.
    ``wanted`` (G, T, E) False: among a token's best or not, it does not ask for that expert. None: it asks for all k.
    """
    if not 1 <= k <= affinity.shape[-1]:
        raise ValueError(f"a token can choose 1 to {affinity.shape[-1]} of {affinity.shape[-1]} experts, not {k}")
    groups, tokens, experts = affinity.shape
    scores = affinity.detach().float()
    queue = _queue(scores, priority)  # (G, T): the token that is served first, second, ...
    chosen = _best_experts(scores, k)  # (G, T, K)
    asked = chosen.gather(1, queue.unsqueeze(-1).expand_as(chosen)).mT.flatten(1)  # (G, K·T), choices outermost
    token = queue.repeat(1, k)
    if wanted is not None:
        asked = asked.where(wanted.flatten(1).gather(1, token * experts + asked), experts)
    if mask is not None:
        asked = asked.where(mask.gather(1, token), experts)  # padding asks for an expert that is not there

    asked, order = asked.sort(dim=1, stable=True)  # each expert's askers side by side, first come first
    edges = torch.arange(experts + 1, device=asked.device).expand(groups, -1).contiguous()
    first = torch.searchsorted(asked, edges)  # (G, E + 1): where those of an expert start, and the next one's
    place = first[:, :-1, None] + torch.arange(capacity, device=asked.device)  # (G, E, C)
    taken = place < first[:, 1:, None]
    asker = token.gather(1, order).gather(1, place.clamp_max(k * tokens - 1).flatten(1)).view_as(place)
    slots = asker.where(taken, tokens)
    wishes = torch.full_like(queue, k) if wanted is None else wanted.gather(-1, chosen).sum(-1)
    wishes = wishes if mask is None else wishes * mask
    return Routing.of(slots, affinity, weights, demand=first.diff(), mask=mask, holes=True, wishes=wishes)


def expert_choice(affinity: Tensor, weights: Tensor, capacity: int, mask: Tensor | None = None) -> Routing:
    """Algorithm 2: every expert takes its ``capacity`` best tokens, the best one in its first slot.

    A token may be taken by many experts or by none. With fewer real tokens than slots, the last slots stay empty.
    """
    tokens = affinity.shape[1]
    scores = affinity.detach().mT  # (G, E, T)
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
    slots = top(scores, min(capacity, tokens))
    if mask is not None:
        slots = slots.where(mask.unsqueeze(1).expand_as(scores).gather(-1, slots), tokens)
    slots = F.pad(slots, (0, max(capacity - tokens, 0)), value=tokens)
    demand = (slots < tokens).sum(-1)
    return Routing.of(slots, affinity, weights, demand, mask=mask, holes=mask is not None or capacity > tokens)


def _queue(scores: Tensor, priority: str) -> Tensor:
    """(G, T) token indices in the order in which they are served."""
    if priority == "order":
        return torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
    if priority != "score":
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, not {priority!r}")
    return top(scores.amax(-1), scores.shape[1])


def _best_experts(scores: Tensor, k: int) -> Tensor:
    """(G, T, K) the best expert of each token, then the second best, ...; ``argmax`` gives the lowest of equals."""
    chosen = []
    for _ in range(k):
        best = scores.argmax(-1, keepdim=True)
        chosen.append(best)
        scores = scores.scatter(-1, best, -torch.inf)
    return torch.cat(chosen, dim=-1)
