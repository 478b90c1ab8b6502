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
    radius = ((words >> 32) & _LOW).add_(1).float().div_(_LOW + 1).log_().mul_(-2).sqrt_()
    angle = words.bitwise_and_(_LOW).float().mul_(2 * math.pi / (_LOW + 1))
    pairs = torch.stack([angle.cos().mul_(radius), angle.sin().mul_(radius)], -1)  # (G, pairs, 2)
    return pairs.flatten(1)[:, :wanted].view_as(x).to(x.dtype)


def _stirred(counters: Tensor) -> Tensor:
    """64 random bits for each counter, in place. Arithmetic is modulo 2⁶⁴, as int64 wraps; shifts are logical."""
    words = counters.mul_(_WEYL)
    for shift, factor in _MIX:
        words = words.bitwise_xor_((words >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return words
