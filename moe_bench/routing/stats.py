"""What a routing did: sums that add up over micro-batches and devices, and the figures that follow from them.

    (tally_of_one_batch + tally_of_another).figures()   # as of both batches in one

Everything stays on the device until someone reads it. Shares and means are over real tokens, each counting the same
whatever batch it was in; a group of nothing but padding counts in none of them. docs/telemetry.md has all the names.

G groups, T tokens, E experts, C slots.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_bench.routing.numerics import no_autocast, wide

if TYPE_CHECKING:
    from moe_bench.routing.dispatch import Routing, SoftRouting

DEAD = 0.01
"""An expert below this share of its fair load is dead."""

PEAKS = ("logit_max", "row_error/max", "column_error/max")
"""Figures that are the largest of all and not a mean."""


@dataclass(frozen=True)
class Tally:
    """What was counted, in float64: 1-d tensors on the device of the routing."""

    ratios: dict[str, Tensor]  # (2,): what a share or mean adds up, and what it is divided by
    counts: dict[str, Tensor]  # "tokens" (1,), "load" (E,), and with detail "experts_per_token" (E + 1,)
    peaks: dict[str, Tensor]  # (1,): the largest so far; their names are in PEAKS

    def __add__(self, other: Tally) -> Tally:
        """Of two batches, on one device or two, through the same layer."""
        return Tally(
            {name: mine + other.ratios[name] for name, mine in self.ratios.items()},
            {name: mine + other.counts[name] for name, mine in self.counts.items()},
            {name: mine.maximum(other.peaks[name]) for name, mine in self.peaks.items()},
        )

    def figures(self, detail: bool = False) -> dict[str, Tensor]:
        """Names and float32 scalars; with ``detail`` also two vectors, the load of each expert and, where that was
        counted, the shares of tokens in 0, 1, 2, ... slots."""
        load = self.counts["load"]
        load = load * load.numel() / load.sum().clamp_min(1e-6)  # 1 is the fair share
        found = {
            "load/max": load.amax(),
            "load/min": load.amin(),
            "load/cv": load.std(correction=0),
            "load/dead": (load < DEAD).double().mean(),
            **{name: part / whole.clamp_min(1) for name, (part, whole) in self.ratios.items()},
            **{name: peak[0] for name, peak in self.peaks.items()},
        }
        if detail:
            found["load"] = load
        if detail and "experts_per_token" in self.counts:
            tokens_in = self.counts["experts_per_token"]
            found["experts_per_token/histogram"] = tokens_in / self.counts["tokens"].clamp_min(1)
        return {name: figure.float() for name, figure in found.items()}

    def flat(self) -> Tensor:
        """All numbers in a row, to be moved in one go; ``filled_from`` puts them back."""
        return torch.cat([*self.ratios.values(), *self.counts.values(), *self.peaks.values()])

    def filled_from(self, flat: Tensor) -> Tally:
        """A tally of the same names with the numbers of ``flat``."""
        groups = (self.ratios, self.counts, self.peaks)
        parts = iter(flat.split([value.numel() for group in groups for value in group.values()]))
        return Tally(*({name: next(parts) for name in group} for group in groups))


@torch.no_grad()
def sparse_tally(routing: Routing, detail: bool = False) -> Tally:
    """Of token choice or expert choice. ``detail`` counts the tokens in 0, 1, 2, ... slots as well."""
    affinity, weight = wide(routing.affinity), wide(routing.weight)  # in bfloat16 one cannot count beyond 256
    real = _real(affinity, routing.mask)  # (G, T)
    some = real.amax(1, keepdim=True)  # (G, 1): 0 for a group of nothing but padding
    seats = _seats(routing)
    tokens, seated = real.sum(), seats.sum()
    fair = real.sum(1, keepdim=True) / affinity.shape[-1]
    row_error = (affinity.sum(-1) - 1).abs() * real  # (G, T)
    column_error = ((affinity * real.unsqueeze(-1)).sum(1) / fair.clamp_min(1e-6) - 1).abs() * some  # (G, E)
    ratios = {
        "fill": (seated, some.sum() * (routing.token.numel() // len(real))),
        "uncovered": (((seats == 0) * real).sum(), tokens),
        "experts_per_token": (seated, tokens),
        "combine_mass": (weight.sum(), tokens),
        "gate_entropy": ((_entropy(wide(routing.gates), -1) * real).sum(), tokens),
        "affinity_entropy": ((_entropy(affinity, -1) * real).sum(), tokens),
        "row_error": (row_error.sum(), tokens),
        "column_error": (column_error.sum(), some.sum() * affinity.shape[-1]),
    }
    if routing.wishes is not None:
        wishes = routing.wishes.sum()
        ratios["dropped_wishes"] = (wishes - seated, wishes)
        ratios["dropped_tokens"] = (((routing.wishes > 0) & (seats == 0)).sum(), tokens)
    peaks = {"row_error/max": row_error.amax(), "column_error/max": column_error.amax()}
    if routing.logits is not None:
        peaks["logit_max"] = (routing.logits.abs() * real.unsqueeze(-1)).amax()
    counts = {"tokens": tokens.reshape(1), "load": routing.demand.sum(0)}
    if detail:
        none = real.new_zeros(affinity.shape[-1] + 1)
        counts["experts_per_token"] = none.index_add(0, seats.flatten().long(), real.flatten())
    return _tally(ratios, counts, peaks)


@torch.no_grad()
def soft_tally(routing: SoftRouting, detail: bool = False) -> Tally:
    """Of Soft MoE. ``detail`` compares all slots and all tokens of a group with each other, which is quadratic."""
    mixture, share = wide(routing.mixture).flatten(2), wide(routing.share).flatten(2)  # (G, T, E·C)
    real = _real(share, routing.mask)  # (G, T)
    some = real.amax(1, keepdim=True)  # (G, 1)
    tokens, slots = real.sum(), some.sum() * mixture.shape[-1]
    smallest = mixture.masked_fill(real.unsqueeze(-1) == 0, 1).amin(1)  # (G, E·C)
    ratios = {
        "tokens_per_slot": ((_entropy(mixture, 1).exp() * some).sum(), slots),
        "dispatch_max": ((mixture.amax(1) * some).sum(), slots),
        "dispatch_min": ((smallest * some).sum(), slots),
        "combine_max": ((share.amax(-1) * real).sum(), tokens),
        "combine_min": ((share.amin(-1) * real).sum(), tokens),
        "gate_entropy": ((_entropy(share, -1) * real).sum(), tokens),
    }
    if detail:
        ratios |= _similarity("dispatch_similarity", mixture.mT, some.expand(-1, mixture.shape[-1]))
        ratios |= _similarity("combine_similarity", share, real)
    return _tally(ratios, {"tokens": tokens.reshape(1), "load": wide(routing.share).sum((0, 1, 3))}, {})


@torch.no_grad()
def largest_logits(routings: Iterable[Routing | SoftRouting]) -> list[Tensor]:
    """Of each routing that has a gate's logits the largest, either sign: 0-d, nan if one is."""
    logits = [routing.logits for routing in routings if hasattr(routing, "logits") and routing.logits is not None]
    return [torch.linalg.vector_norm(found, torch.inf) for found in logits]


def _tally(ratios: dict[str, tuple[Tensor, Tensor]], counts: dict[str, Tensor], peaks: dict[str, Tensor]) -> Tally:
    return Tally(
        {name: torch.stack([part.double(), whole.double()]) for name, (part, whole) in ratios.items()},
        {name: count.double() for name, count in counts.items()},
        {name: peak.double().reshape(1) for name, peak in peaks.items()},
    )


def _real(like: Tensor, mask: Tensor | None) -> Tensor:
    """(G, T) in the dtype of ``like`` (G, T, ...): 1 for a real token, 0 for padding."""
    return like.new_ones(like.shape[:2]) if mask is None else mask.to(like.dtype)


def _seats(routing: Routing) -> Tensor:
    """(G, T) in how many slots each token is."""
    groups, tokens, _ = routing.affinity.shape
    none = torch.zeros(groups * tokens + 1, device=routing.token.device)  # the last for empty slots
    seats = none.index_add(0, routing.token.flatten(), none.new_ones(routing.token.numel()))
    return seats[:-1].view(groups, tokens)


def _entropy(weights: Tensor, dim: int) -> Tensor:
    """In nats, of ``weights`` brought to a sum of 1 along ``dim``; 0 where all of them are 0."""
    weights = weights.clamp_min(0)
    return torch.special.entr(weights / weights.sum(dim, keepdim=True).clamp_min(1e-30)).sum(dim)


def _similarity(name: str, vectors: Tensor, real: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Cosines of all pairs of different ``vectors`` (G, N, ·) that are ``real`` (G, N): their mean, and the mean over
    groups of the largest."""
    unit = F.normalize(vectors, dim=-1)
    with no_autocast(unit):
        cosine = unit @ unit.mT  # (G, N, N)
    pair = real.unsqueeze(1) * real.unsqueeze(2) * (1 - torch.eye(real.shape[1], device=real.device, dtype=real.dtype))
    paired = pair.amax((1, 2))  # (G,): 0 for a group of fewer than two
    largest = cosine.masked_fill(pair == 0, -1).amax((1, 2))
    return {
        name: ((cosine * pair).sum(), pair.sum()),
        f"{name}/max": ((largest * paired).sum(), paired.sum()),
    }
