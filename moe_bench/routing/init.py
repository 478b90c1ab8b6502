"""How router parameters start: as the authors' do, by the default of their library."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal cut off at ±2."""


@torch.no_grad()
def lecun_normal_(weight: Tensor, fan_in: int) -> Tensor:
    """Fills ``weight`` from a normal cut off at two standard deviations, with variance 1/``fan_in`` after the cut.

    Logits of tokens of unit variance so start with unit variance, whatever the width. Returns ``weight``.
    """
    std = math.sqrt(1 / fan_in) / TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
