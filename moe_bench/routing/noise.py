"""Routing noise that follows from a group's place in training, and not from what was drawn before.

Number i of group g is a function of one whole number, ``place`` + g · 2³², and of i. So a step's noise is the same on
any number of ranks and in pieces of any size, and a step that is repeated or resumed has the noise that it had.

SplitMix64 in counter mode (Steele, Lea and Flood, 2014; passes BigCrush), then Box-Muller. G groups.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GROUP_STRIDE = 1 << 32
"""What lies between the places of neighbouring groups: more than a group has numbers."""

_WEYL = 0x9E3779B97F4A7C15 - (1 << 64)  # odd, 2⁶⁴ over the golden ratio; torch has signed integers only
_MIX = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)), (31, 1))
_LOW = 0xFFFFFFFF


def normal_like(x: Tensor, place: Tensor | None) -> Tensor:
    """Standard normal numbers in the shape and dtype of ``x`` (G, ...), on its device.

    ``place`` is a whole number, an int64 scalar on the same device; None draws from torch's generator.
    """
    if place is None:
        return torch.randn_like(x)
    wanted = x[0].numel()
    groups = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * GROUP_STRIDE
    words = _stirred(place + groups + torch.arange(-(-wanted // 2), device=x.device))  # (G, pairs)
    radius = (-2 * ((((words >> 32) & _LOW) + 1).float() / (_LOW + 1)).log()).sqrt()
    angle = (words & _LOW).float() * (2 * math.pi / (_LOW + 1))
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)  # (G, pairs, 2)
    return pairs.flatten(1)[:, :wanted].view_as(x).to(x.dtype)


def _stirred(counters: Tensor) -> Tensor:
    """64 random bits for each counter. Arithmetic is modulo 2⁶⁴, as int64 wraps; shifts are logical."""
    words = counters * _WEYL
    for shift, factor in _MIX:
        words = (words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return words
