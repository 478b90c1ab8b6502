"""The routers of sections 2.1-2.5 as one module over affinity × choice × combine, and all six by name.

    affinity   softmax | sinkhorn | sparse     who likes whom (eq. 6, 8, 9); sigmoid, relu or a function of one's own
    choice     token | expert                  who picks (Algorithm 1, 2)
    combine    softmax | plan                  what weighs the outputs (section 3.4, Figure 3)

Any affinity goes with any choice and any combine; only sigmoid and ReLU gates must weigh the outputs themselves
(combine=plan). Weights are never brought to a sum of 1. Gradients run through them alone, never through who was chosen:
with combine=plan through all Sinkhorn iterations, but of the sparse plan only through its last projection, which takes
the prices that the solver found for constants and is flat where the plan is zero.

A token of the sparse plan asks for its k best experts among those that the plan gives it part of, and for no expert if
its row is empty. At most C tokens are planned for an expert, so token choice by that plan drops nothing. A token with
ReLU gates asks for its k best experts among those with a positive gate.

G groups, T tokens, E experts, C slots, D width, K choices.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_bench.routing.affinity import ITERATIONS, OwnAffinity, relu, sigmoid, sinkhorn, softmax
from moe_bench.routing.capacity import Capacity, choices_of_token
from moe_bench.routing.choice import expert_choice, token_choice
from moe_bench.routing.dispatch import Routing
from moe_bench.routing.init import lecun_normal_
from moe_bench.routing.losses import gshard_loss, importance_loss, load_loss, z_loss
from moe_bench.routing.noise import normal_like
from moe_bench.routing.numerics import no_autocast, wide
from moe_bench.routing.soft_moe import SoftRouter
from moe_bench.routing.transport import sparse
from moe_bench.routing.words import AFFINITIES, CHOICES, COMBINES, PRIORITIES, SOLVERS

GATES = {"softmax": softmax, "sigmoid": sigmoid, "relu": relu}
"""Affinities of one token alone, which are weights too."""

# Noise: the paper writes it in eq. 6 only, but the authors' Sinkhorn routers have it from their softmax parents; their
# sparse routers never add any.
PRESETS: dict[str, dict[str, Any]] = {
    "softmax_tc": {"affinity": "softmax", "choice": "token", "noise": 1.0, "importance": 0.005, "load": 0.005},
    "sinkhorn_tc": {"affinity": "sinkhorn", "choice": "token", "noise": 1.0},
    "softmax_ec": {"affinity": "softmax", "choice": "expert", "noise": 1.0},
    "sinkhorn_ec": {"affinity": "sinkhorn", "choice": "expert", "noise": 1.0},
    "sparse_ec": {"affinity": "sparse", "choice": "expert", "noise": 0.0},
    "soft": {"normalize": True, "scale": 1.0, "noise": 0.0},
}


class SparseRouter(nn.Module):
    """Any of the five routers that send whole tokens to experts: D has ones and zeros.

    ``k`` None: the capacity factor rounded up. ``noise`` None: 1.0, or 0 for sparse; in training the logits get
    N(0, noise / experts), a standard deviation. ``importance`` and ``load`` weigh the losses of Appendix A,
    ``gshard`` and ``z_loss`` two more, all of the logits whatever the affinity. ``iterations`` None: 20, or what the
    sparse solver needs. ``solver`` and ``solver_lr`` are of the sparse affinity. ``affinity`` may be a function, see
    ``OwnAffinity``. ``bias_rate``: token choice is by the affinity plus a ``bias`` of each expert, a buffer that only
    ``balance.rebalance`` changes (DeepSeek-V3's loss-free balancing); weights are without it. 0: there is none.
    """

    noise_place: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        dim: int,
        experts: int,
        *,
        affinity: str | Callable[..., Tensor],
        choice: str,
        combine: str = "softmax",
        k: int | None = None,
        capacity: Capacity = Capacity(),  # noqa: B008 (frozen)
        noise: float | None = None,
        importance: float = 0.0,
        load: float = 0.0,
        gshard: float = 0.0,
        z_loss: float = 0.0,
        iterations: int | None = None,
        solver: str = "adam",
        solver_lr: float = 1e-2,
        priority: str = "order",
        bias_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.own = OwnAffinity(affinity) if callable(affinity) else None
        if not callable(affinity):
            _one_of("affinity", affinity, AFFINITIES)
        _one_of("choice", choice, CHOICES)
        _one_of("combine", combine, COMBINES)
        _one_of("solver", solver, SOLVERS)
        _one_of("priority", priority, PRIORITIES)
        if affinity == "sparse" and noise:
            raise ValueError(f"the sparse affinity takes no noise (eq. 9 is solved on clean gates), but noise={noise}")
        if affinity in ("sigmoid", "relu") and combine == "softmax":
            raise ValueError(f"{affinity} gates weigh the outputs themselves: use combine='plan', not 'softmax'")
        if bias_rate and choice == "expert":
            raise ValueError(f"bias_rate={bias_rate} balances experts, and those that choose are all full already")
        self.k = choices_of_token(k, capacity.factor)
        if choice == "token" and not 1 <= self.k <= experts:
            raise ValueError(f"a token cannot choose k={self.k} of {experts} experts; use k from 1 to {experts}")
        self.affinity = self.own.name if self.own else str(affinity)
        self.choice, self.combine, self.capacity = choice, combine, capacity
        self.noise = (0.0 if affinity == "sparse" else 1.0) if noise is None else noise
        weights = {"importance": importance, "load": load, "gshard": gshard, "z": z_loss}
        self.loss_weights = {name: weight for name, weight in weights.items() if weight}
        self.iterations, self.solver, self.solver_lr, self.priority = iterations, solver, solver_lr, priority
        self.gate = nn.Linear(dim, experts, bias=False)
        self.register_buffer("noise_place", None, persistent=False)  # of the first group; see noise.py
        self.bias_rate = bias_rate
        self.register_buffer("bias", torch.zeros(experts) if bias_rate else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        lecun_normal_(self.gate.weight, fan_in=self.gate.in_features)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Routing:
        """Routes the groups of tokens ``x`` (G, T, D); ``mask`` (G, T) is False for padding."""
        slots = self.capacity.slots(x.shape[1], self.gate.out_features, self.training)
        noise_std = self.noise / self.gate.out_features if self.training else 0.0
        clean = self._logits(x)
        noisy = clean + noise_std * normal_like(clean, self.noise_place) if noise_std else clean

        affinity, weights = self._affinity_and_weights(clean, noisy, slots, mask)
        if self.choice == "token":
            wanted = affinity > 0 if self.affinity in ("sparse", "relu") else None
            scores = affinity if self.bias is None else affinity + self.bias
            routing = token_choice(scores, weights, self.k, slots, self.priority, mask, wanted)
        else:
            routing = expert_choice(affinity, weights, slots, mask)

        losses = self._losses(clean, noisy, noise_std, mask)
        weighted = [self.loss_weights[name] * loss for name, loss in losses.items()]
        aux_loss = torch.stack(weighted).sum(0) if weighted else None
        return dataclasses.replace(routing, logits=clean.detach(), losses=losses, aux_loss=aux_loss)

    def _logits(self, x: Tensor) -> Tensor:
        """XW (G, T, E), float32 whatever the autocast."""
        x = wide(x)
        with no_autocast(x):
            return F.linear(x, self.gate.weight.to(x.dtype))

    def _affinity_and_weights(
        self, clean: Tensor, noisy: Tensor, slots: int, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Who goes where, and what the outputs count, both (G, T, E).

        Only weights pass gradients on.
        """
        if self.affinity in GATES:
            gates = GATES[self.affinity](noisy)
            return gates, gates
        gates = softmax(noisy if self._weighs_by_noisy_logits else clean)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.combine == "plan"):
            if self.own is not None:
                plan = self.own(noisy, mask)
            elif self.affinity == "sinkhorn":
                plan = sinkhorn(noisy, ITERATIONS if self.iterations is None else self.iterations, mask)
            else:
                plan = sparse(softmax(clean), slots, self.solver, self.iterations, self.solver_lr, mask)
        return plan, plan if self.combine == "plan" else gates

    @property
    def _weighs_by_noisy_logits(self) -> bool:
        """Whether the softmax beside a plan is of the noisy logits: it is for Sinkhorn Expert Choice, but of the clean
        ones for Sinkhorn Token Choice, as the authors' code has it. An affinity of one's own does the same.
        """
        return self.choice == "expert" and self.affinity != "sparse"

    def _losses(self, clean: Tensor, noisy: Tensor, noise_std: float, mask: Tensor | None) -> dict[str, Tensor]:
        """Those losses that have a weight; the load loss exists only where there is noise."""
        losses = {}
        if "importance" in self.loss_weights:
            losses["importance"] = importance_loss(clean, mask)
        if "load" in self.loss_weights and noise_std:
            losses["load"] = load_loss(clean, noisy, self.k, noise_std, mask)
        if "gshard" in self.loss_weights:
            losses["gshard"] = gshard_loss(noisy, mask)
        if "z" in self.loss_weights:
            losses["z"] = z_loss(clean, mask)
        return losses

    def extra_repr(self) -> str:
        words = [self.affinity, self.choice, f"combine={self.combine}", f"capacity={self.capacity.factor:g}"]
        words += [f"k={self.k}"] * (self.choice == "token") + [f"solver={self.solver}"] * (self.affinity == "sparse")
        words += [f"bias_rate={self.bias_rate:g}"] * (self.bias is not None)
        return ", ".join([*words, f"noise={self.noise:g}"])


def make_router(
    name: str,
    dim: int,
    experts: int,
    *,
    capacity: Capacity = Capacity(),  # noqa: B008 (frozen)
    tokens: int | None = None,
    **overrides: Any,
) -> SparseRouter | SoftRouter:
    """One of the six routers of the paper, by a name in ``PRESETS``; ``overrides`` change its options.

    ``tokens`` of one image are needed for "soft" only, whose parameters depend on them.
    """
    if name not in PRESETS:
        guess = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {guess[0]!r}? " if guess else ""
        raise ValueError(f"no router {name!r}; {hint}there are {', '.join(PRESETS)}")
    options = PRESETS[name] | overrides
    if name != "soft":
        return SparseRouter(dim, experts, capacity=capacity, **options)
    if tokens is None:
        raise ValueError("the soft router has parameters for every slot: say tokens=<tokens of one image>")
    return SoftRouter(dim, experts, tokens=tokens, capacity=capacity, **options)


def _one_of(option: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{option} must be one of {', '.join(words)}, not {value!r}")
