"""What a routing did, as scalars that stay on the device until someone logs them.

G groups, T tokens, E experts, C slots. Shares and means are over real tokens; a group of nothing but padding counts
in none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sparse_stats(
    token: Tensor, weight: Tensor, affinity: Tensor, gates: Tensor, demand: Tensor, mask: Tensor | None
) -> dict[str, Tensor]:
    """Telemetry of a ``Routing``, whose fields these are.

    load/max, load/cv   demand for an expert over the fair share: the largest, and the coefficient of variation
    load/dead           share of experts that nobody asked for
    fill                share of slots with a token in them
    dropped             share of wishes (a token for an expert) that found no slot; 0 under expert choice
    uncovered           share of tokens in no slot at all
    experts_per_token   slots that hold a token, mean
    combine_mass        sum of the weights of a token's slots, mean
    gate_entropy        of the gates of a token, mean, in nats (ln E: undecided)
    row_error           |row sum of the affinity − 1|, mean
    column_error        |column sum of the affinity / (T/E) − 1|, mean
    """
    groups, tokens, experts = affinity.shape
    real = affinity.new_ones(groups, tokens) if mask is None else mask.to(affinity.dtype)
    total = real.sum().clamp_min(1)
    filled = token < groups * tokens
    slots_of_token = torch.zeros(groups * tokens + 1, dtype=weight.dtype, device=weight.device)
    slots_of_token = slots_of_token.index_add(0, token.flatten(), torch.ones_like(weight).flatten())[:-1]
    fair = real.sum(1, keepdim=True) / experts  # (G, 1)
    return _load(demand) | {
        "fill": filled.float().mean(),
        "dropped": 1 - filled.sum() / demand.sum().clamp_min(1),
        "uncovered": ((slots_of_token == 0) * real.flatten()).sum() / total,
        "experts_per_token": slots_of_token.sum() / total,
        "combine_mass": weight.sum() / total,
        "gate_entropy": (_entropy(gates) * real).sum() / total,
        "row_error": ((affinity.sum(-1) - 1).abs() * real).sum() / total,
        "column_error": _mean_of_groups(
            ((affinity * real.unsqueeze(-1)).sum(1) / fair.clamp_min(1e-6) - 1).abs().mean(-1), fair
        ),
    }


@torch.no_grad()
def soft_stats(mixture: Tensor, share: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Telemetry of a ``SoftRouting``, whose fields these are.

    load/max, load/cv   combine weight that an expert gets over the fair share
    load/dead           share of experts below a hundredth of the fair share
    dispatch_max        largest weight of a token in a slot, mean over slots (1/T: uniform)
    combine_max         largest weight of a slot in a token, mean (1/(E·C): uniform)
    gate_entropy        of the slots of a token, mean, in nats
    """
    groups, tokens = share.shape[:2]
    real = share.new_ones(groups, tokens) if mask is None else mask.to(share.dtype)
    total = real.sum().clamp_min(1)
    by_expert = share.sum((1, 3))
    return _load(by_expert) | {
        "dispatch_max": _mean_of_groups(mixture.amax(1).mean((1, 2)), real.sum(1, keepdim=True)),
        "combine_max": (share.amax((2, 3)) * real).sum() / total,
        "gate_entropy": (_entropy(share.flatten(2)) * real).sum() / total,
    }


def _load(demand: Tensor) -> dict[str, Tensor]:
    """How evenly ``demand`` (G, E) falls on experts."""
    amount = demand.sum(-1, keepdim=True).float()
    load = demand * demand.shape[-1] / amount.clamp_min(1e-6)  # 1 is the fair share
    return {
        "load/max": _mean_of_groups(load.amax(-1), amount),
        "load/cv": _mean_of_groups(load.std(-1, correction=0), amount),
        "load/dead": _mean_of_groups((load < 0.01).float().mean(-1), amount),
    }


def _mean_of_groups(values: Tensor, amount: Tensor) -> Tensor:
    """Mean of ``values`` (G,) over the groups whose ``amount`` (G, 1) is not zero."""
    counted = (amount.squeeze(-1) > 0).to(values.dtype)
    return (values * counted).sum() / counted.sum().clamp_min(1)


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)
