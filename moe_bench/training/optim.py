"""What is optimised and how fast: weight-decay groups, the optimiser, the learning rate as a pure function of the step.

Step s (0, 1, ...) is the update made after s earlier ones, so a warm-up makes the first update with a rate of 0, as the
reference does. Weight decay is decoupled and multiplied by the learning rate: AdamW's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

KERNELS = (
    "weight",
    "w1",
    "w2",
)  # names of dense, convolution and stacked expert kernels; norms and biases have one axis
HEAD_KERNEL = "head.weight"


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule over ``steps`` updates."""

    kind: str  # constant, linear, cosine or rsqrt
    peak: float
    steps: int
    warmup: int = 0  # updates from 0 to the peak, linear
    end_lr: float = 0.0  # linear and cosine: the rate at step ``steps``
    timescale: int = 10_000  # rsqrt: the rate falls by √2 this many steps after the warm-up
    cooldown: int = 0  # rsqrt: last updates, linear to 0 from the rate at their start

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "linear", "cosine", "rsqrt"):
            raise ValueError(f"schedule is constant, linear, cosine or rsqrt, not {self.kind!r}")
        cooldown = self.cooldown if self.kind == "rsqrt" else 0
        if self.warmup + cooldown > self.steps:
            raise ValueError(f"warmup {self.warmup} + cooldown {cooldown} are more than the {self.steps} steps")
        if self.kind == "rsqrt" and self.timescale < 1:
            raise ValueError(f"timescale must be at least 1 step, not {self.timescale}")


def learning_rate(step: int, schedule: Schedule) -> float:
    """The rate of update ``step``, 0 ≤ step ≤ ``schedule.steps``. Equal to the reference's schedules of V-MoE."""
    s = schedule
    if step < s.warmup:
        return s.peak * step / s.warmup
    decayed = (step - s.warmup) / max(1, s.steps - s.warmup)  # 0 at the peak, 1 at the end
    if s.kind == "linear":
        return s.peak + (s.end_lr - s.peak) * decayed
    if s.kind == "cosine":
        return s.end_lr + (s.peak - s.end_lr) * (1 + math.cos(math.pi * decayed)) / 2
    if s.kind == "rsqrt":
        cooldown_start = s.steps - s.cooldown
        rate = s.peak / math.sqrt(1 + (min(step, cooldown_start) - s.warmup) / s.timescale)
        # The reference holds the rsqrt factor while cooling down; big_vision's own lets it fall on.
        return rate * (s.steps - step) / s.cooldown if step > cooldown_start else rate
    return s.peak


def parameter_groups(
    model: nn.Module, weight_decay: float, decay: str = "kernels", head_decay: float | None = None
) -> list[dict[str, Any]]:
    """The trainable parameters in at most three groups with their ``weight_decay``.

    ``decay="kernels"`` decays matrices that multiply features: dense, convolution, gate and stacked expert kernels. Not
    biases, norms, positions, class token, pooling query, or the slots and scale of Soft MoE. ``decay="all"`` decays
    all. The head's kernel gets ``head_decay`` where that is set: the published Soft MoE recipe decays it 100 times
    the rest.

    Raises:
        ValueError: ``decay`` is neither word.
    """
    if decay not in ("kernels", "all"):
        raise ValueError(f"decay is kernels or all, not {decay!r}")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            amount = weight_decay if decay == "all" or is_kernel(name, parameter) else 0.0
            if name == HEAD_KERNEL and head_decay is not None:
                amount = head_decay
            groups.setdefault(amount, []).append(parameter)
    return [{"params": parameters, "weight_decay": amount} for amount, parameters in groups.items()]


def is_kernel(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter is a matrix (or a stack of them) that multiplies features."""
    return name.rpartition(".")[2] in KERNELS and parameter.ndim >= 2


def make_optimizer(
    groups: list[dict[str, Any]], kind: str, *, betas: Sequence[float] = (0.9, 0.999), momentum: float = 0.9
) -> torch.optim.Optimizer:
    """AdamW (ε 1e-8) or SGD with momentum; its learning rate is 0 until the training step sets it.

    Fused: one pass over each parameter and no temporaries. The plain version would hold several copies of the largest
    parameter, 0.3 GB for the experts of one layer of B/16.
    """
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(betas[0], betas[1]), eps=1e-8, fused=True)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=True)
    raise ValueError(f"optimizer is adamw or sgd, not {kind!r}")
