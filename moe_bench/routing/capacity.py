"""Buffer capacity: how many slots each expert has (section 1.2 and 3.1 of the paper). Pure Python, no torch.

The paper rounds ``c·T/E`` to the nearest whole number, half to even as Python does; rounding up and to a multiple of
some number are what the authors' code does when nothing else is said, and what tensor cores like.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

ROUND: dict[str, Callable[[float], int]] = {"nearest": round, "up": math.ceil}


def slots_per_expert(tokens: int, experts: int, factor: float, rounding: str = "nearest", multiple_of: int = 1) -> int:
    """C, the slots of each expert for a group of ``tokens``: ``factor · tokens / experts``, rounded.

    Raises ValueError where that is below one slot, before rounding up to ``multiple_of``, and for a factor, a rounding
    or a multiple that makes no sense.
    """
    _check(factor, rounding, multiple_of)
    slots = ROUND[rounding](tokens * factor / experts)
    if slots < 1:
        raise ValueError(
            f"capacity {factor:g} × {tokens} tokens / {experts} experts = {tokens * factor / experts:.3g} "
            f"rounds to {slots} slots per expert, and an expert needs at least 1: "
            f"use a capacity of {experts / tokens:.3g} or more, larger groups, or fewer experts"
        )
    return math.ceil(slots / multiple_of) * multiple_of


def choices_of_token(k: int | None, factor: float) -> int:
    """K, the experts that a token chooses: as said, or the capacity ``factor`` rounded up."""
    return math.ceil(factor) if k is None else k


@dataclass(frozen=True)
class Capacity:
    """A capacity factor and how it is rounded; groups of any size ask it for their slots."""

    factor: float = 1.0  # c in C = round(c · T / E)
    rounding: str = "nearest"  # or "up"
    multiple_of: int = 1  # slots are rounded up to a multiple of this
    eval_factor: float | None = None  # c at evaluation; None: the same

    def __post_init__(self) -> None:
        _check(self.factor, self.rounding, self.multiple_of)
        if self.eval_factor is not None:
            _check(self.eval_factor, self.rounding, self.multiple_of)

    def slots(self, tokens: int, experts: int, training: bool = True) -> int:
        """C for a group of ``tokens``, padding included, in training or at evaluation; see :func:`slots_per_expert`."""
        factor = self.factor if training or self.eval_factor is None else self.eval_factor
        return slots_per_expert(tokens, experts, factor, self.rounding, self.multiple_of)


def _check(factor: float, rounding: str, multiple_of: int) -> None:
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"capacity factor must be a positive number, not {factor}")
    if rounding not in ROUND:
        raise ValueError(f"capacity rounding must be one of {', '.join(ROUND)}, not {rounding!r}")
    if multiple_of < 1:
        raise ValueError(f"capacity multiple_of must be at least 1, not {multiple_of}")
