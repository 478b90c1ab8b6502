"""Routers that never look at a token, against which a learned one must show its worth. Both go through Algorithm 1.

    hash     experts by a token's place in its image (Hash Layers; words have a vocabulary to hash, patches have none)
    random   experts by chance, drawn anew in each training step; at evaluation by the place, which is a fixed draw

Each chosen expert weighs 1/k: a token's weights sum to 1 whatever k, as its softmax gates do over all experts.
G groups, T tokens, N tokens of an image, E experts, K choices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_bench.routing.capacity import Capacity, choices_of_token
from moe_bench.routing.choice import token_choice
from moe_bench.routing.dispatch import Routing
from moe_bench.routing.noise import normal_like

KINDS = ("hash", "random")


class ControlRouter(nn.Module):
    """Token choice by a fixed hash or by chance: no gate, no parameters, no losses.

    The hash is drawn when the router is made, as weights are: from torch's generator, another one in each layer. It
    spreads the N places of an image evenly over experts. ``tokens`` is N; ``k`` None: the capacity factor rounded up.
    """

    table: Tensor  # (N, E), the larger the sooner that expert is chosen; rows sum to 1
    noise_place: Tensor | None

    def __init__(
        self,
        experts: int,
        *,
        kind: str,
        tokens: int,
        k: int | None = None,
        capacity: Capacity = Capacity(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        self.kind, self.experts, self.capacity = kind, experts, capacity
        self.k = choices_of_token(k, capacity.factor)
        if not 1 <= self.k <= experts:
            raise ValueError(f"a token cannot go to k={self.k} of {experts} experts; use k from 1 to {experts}")
        self.register_buffer("table", torch.empty(tokens, experts))
        self.register_buffer("noise_place", None, persistent=False)  # of the first group; see noise.py
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the hash: the j-th choice of place n is expert (p(n) + s(j)) mod E, where p and s are permutations."""
        tokens, experts = self.table.shape
        place, shift = torch.randperm(tokens), torch.randperm(experts)
        order = (place.unsqueeze(1) + shift) % experts  # (N, E), each row a permutation of the experts
        falling = torch.arange(experts, 0, -1.0).expand_as(order)
        scores = torch.zeros_like(falling).scatter(1, order, falling)
        self.table.copy_(scores / scores.sum(-1, keepdim=True))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Routing:
        """Routes the groups of tokens ``x`` (G, T, D) without looking; ``mask`` (G, T) is False for padding."""
        groups, tokens, _ = x.shape
        place = torch.arange(tokens, device=x.device) % len(self.table)
        affinity = self.table[place].expand(groups, -1, -1)  # (G, T, E)
        if self.kind == "random" and self.training:
            affinity = normal_like(affinity, self.noise_place).softmax(-1)
        slots = self.capacity.slots(tokens, self.experts, self.training)
        return token_choice(affinity, torch.full_like(affinity, 1 / self.k), self.k, slots, mask=mask)

    def extra_repr(self) -> str:
        return f"{self.kind}, experts={self.experts}, k={self.k}, capacity={self.capacity.factor:g}"
