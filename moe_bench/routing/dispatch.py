"""Eq. 2 as verbs: a routing sends tokens to slots (D), and adds the experts' outputs up again (C).

    slots = routing.dispatch(x)              # (G, T, D) → (E, G·C, D), what D says
    y     = routing.combine(experts(slots))  # (E, G·C, D) → (G, T, D), what C says

``Routing`` moves rows by index and never makes a T×E×C tensor; ``SoftRouting`` mixes all tokens of a group and is made
of two of them. ``tensors()`` shows either as the paper's (D, C).

G groups, T tokens, E experts, C slots, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_bench.routing import stats
from moe_bench.routing.numerics import wide


@dataclass(frozen=True, eq=False)
class Routing:
    """Which token sits in each slot, and what the slot's output counts for it. Algorithms 1 and 2 make them."""

    token: Tensor  # (E, G·C) int64: the row of x, seen as (G·T, D), in each slot; G·T in an empty slot
    weight: Tensor  # (E, G·C): what the slot's output counts for its token; 0 in an empty slot
    holders: tuple[Tensor, Tensor]  # all slots by the row of x in them, and where those of each row start: the way back
    holes: bool  # whether a slot may be empty
    affinity: Tensor  # (G, T, E), detached, by which slots were given
    gates: Tensor  # (G, T, E), detached, from which weights were taken
    demand: Tensor  # (G, E) int64: tokens that asked for each expert (token choice) or that it took (expert choice)
    mask: Tensor | None = None  # (G, T) bool, True for real tokens
    wishes: Tensor | None = None  # (G, T) int64: experts that each token asked for; None where it is experts who ask
    logits: Tensor | None = None  # (G, T, E), detached: what the router's gate said, if it has one; for telemetry
    losses: dict[str, Tensor] = field(default_factory=dict)  # (G,) each, unweighted
    aux_loss: Tensor | None = None  # (G,), their weighted sum

    @classmethod
    def of(
        cls,
        slots: Tensor,
        affinity: Tensor,
        weights: Tensor,
        demand: Tensor,
        mask: Tensor | None,
        holes: bool,
        wishes: Tensor | None = None,
    ) -> Routing:
        """From the token in each slot of each group, ``slots`` (G, E, C), with T in an empty one."""
        groups, tokens, experts = affinity.shape
        first = tokens * torch.arange(groups, device=slots.device).view(-1, 1, 1)
        token = torch.where(slots < tokens, slots + first, groups * tokens)
        token = token.transpose(0, 1).reshape(experts, -1)
        weights_by_expert = F.pad(weights.flatten(0, 1), (0, 0, 0, 1)).mT  # (E, G·T + 1), the last for empty slots
        weight = weights_by_expert.gather(-1, token)
        row, slot = torch.sort(token.flatten(), stable=True)
        starts = torch.searchsorted(row, torch.arange(groups * tokens + 1, device=row.device))
        return cls(token, weight, (slot, starts), holes, affinity.detach(), weights.detach(), demand, mask, wishes)

    def dispatch(self, x: Tensor) -> Tensor:
        """The tokens ``x`` (G, T, D) in their slots (E, G·C, D); empty slots are zero. Same dtype."""
        return _Dispatch.apply(x.flatten(0, 1), self.token, *self.holders, self.holes)

    def combine(self, y: Tensor) -> Tensor:
        """The outputs ``y`` (E, G·C, D) weighted and added up for each token (G, T, D); 0 for a token in no slot.

        Weighted sums are made in float32 and returned in the dtype of ``y``. Each token fetches the slots that hold
        it, in slot order, so the result is the same bit for bit from run to run. So are gradients of both verbs.
        """
        slot, starts = self.holders
        weights = self.weight.flatten().index_select(0, slot)
        return _collect(y.flatten(0, 1), slot, starts, weights).view(*self.affinity.shape[:2], -1)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The paper's dispatch and combine tensors, each (G, T, E, C). For reading and tests: they are large."""
        groups, tokens, experts = self.affinity.shape
        rows = self.token.unsqueeze(0)  # (1, E, G·C)
        empty = self.weight.new_zeros(groups * tokens + 1, experts, self.token.shape[-1])
        dense = [
            empty.scatter(0, rows, filling.unsqueeze(0))[:-1].view(groups, tokens, experts, groups, -1)
            for filling in (torch.ones_like(self.weight), self.weight)
        ]
        dispatch, combine = (torch.stack([d[g, :, :, g] for g in range(groups)]) for d in dense)
        return dispatch, combine

    def tally(self, detail: bool = False) -> stats.Tally:
        """Telemetry that adds up over batches, without waiting for the device."""
        return stats.sparse_tally(self, detail)

    def stats(self, detail: bool = False) -> dict[str, Tensor]:
        """Telemetry: names and scalars, with ``detail`` some vectors too, without waiting for the device."""
        return self.tally(detail).figures(detail)


class _Dispatch(torch.autograd.Function):
    """Rows by index. Each fetches its own gradients from the slots, where torch would add them up in any order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token: Tensor, slot: Tensor, starts: Tensor, holes: bool) -> Tensor:
        ctx.save_for_backward(slot, starts)
        if holes:
            rows = F.pad(rows, (0, 0, 0, 1))
        return rows.index_select(0, token.flatten()).view(*token.shape, -1)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """``slope`` (E, G·C, D), of the slots."""
        return _collect(slope.flatten(0, 1), *ctx.saved_tensors), None, None, None, None


def _collect(filled: Tensor, slot: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """For each row (G·T, D) the sum of the slots ``filled`` (E·G·C, D) that hold it; ``weights`` are in their order.

    Summed in float32, returned in the dtype of ``filled``.
    """
    weights = None if weights is None else weights.to(wide(filled).dtype)
    sums = F.embedding_bag(slot, wide(filled), starts, mode="sum", per_sample_weights=weights)
    return sums[:-1].to(filled.dtype)  # the last holds the empty slots


@dataclass(frozen=True, eq=False)
class SoftRouting:
    """Dense routing tensors: every slot is a mixture of tokens, every token's output a mixture of slots (eq. 11)."""

    mixture: Tensor  # (G, T, E, C): the dispatch tensor, columns sum to 1 over tokens
    share: Tensor  # (G, T, E, C): the combine tensor, rows sum to 1 over all slots
    mask: Tensor | None = None  # (G, T) bool, True for real tokens
    losses: dict[str, Tensor] = field(default_factory=dict)  # always empty
    aux_loss: Tensor | None = None  # always None

    def dispatch(self, x: Tensor) -> Tensor:
        """The mixtures of ``x`` (G, T, D) that fill the slots (E, G·C, D).

        The weights are float32; the product runs in the dtype of ``x``, or of the autocast around it.
        """
        groups, _, experts, slots = self.mixture.shape
        mixed = self.mixture.flatten(2).mT.to(x.dtype) @ x  # (G, E·C, D)
        return mixed.view(groups, experts, slots, -1).transpose(0, 1).reshape(experts, groups * slots, -1)

    def combine(self, y: Tensor) -> Tensor:
        """The mixtures of the outputs ``y`` (E, G·C, D) for each token (G, T, D). Product as in ``dispatch``."""
        groups, _, experts, slots = self.share.shape
        rows = y.view(experts, groups, slots, -1).transpose(0, 1).flatten(1, 2)  # (G, E·C, D)
        return self.share.flatten(2).to(y.dtype) @ rows

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The paper's dispatch and combine tensors, each (G, T, E, C)."""
        return self.mixture, self.share

    def tally(self, detail: bool = False) -> stats.Tally:
        """Telemetry that adds up over batches, without waiting for the device."""
        return stats.soft_tally(self, detail)

    def stats(self, detail: bool = False) -> dict[str, Tensor]:
        """Telemetry: names and scalars, with ``detail`` some vectors too, without waiting for the device."""
        return self.tally(detail).figures(detail)
