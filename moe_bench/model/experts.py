"""E expert MLPs as stacked tensors, so that one batched matrix product runs them all: the MLP_r of equation 2.

Axis letters: E experts, N rows an expert gets (groups × slots), D width, H hidden.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BIAS_STD = 1e-6


class Experts(nn.Module):
    """``experts`` MLPs of D → H → D with tanh-approximated GELU; dropout after the activation and after the output.

    Every parameter takes part in every step, whichever tokens arrive, so an expert without tokens has a gradient of
    zero and never none: data parallelism needs no search for unused parameters.

    With ``identical`` all experts start as copies of one draw (as the V-MoE models did); routing noise and different
    tokens separate them. Otherwise each is drawn by itself.
    """

    def __init__(self, experts: int, dim: int, hidden: int, *, dropout: float = 0.0, identical: bool = True) -> None:
        super().__init__()
        self.identical = identical
        self.w1 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.b1 = nn.Parameter(torch.empty(experts, hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.b2 = nn.Parameter(torch.empty(experts, dim))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier uniform kernels, biases from N(0, 1e-6); copies are written in place and need no second tensor."""
        _, dim, hidden = self.w1.shape
        bound = math.sqrt(6 / (dim + hidden))
        for parameter in (self.w1, self.b1, self.w2, self.b2):
            drawn = parameter[:1] if self.identical else parameter
            if parameter.dim() == 3:
                drawn.uniform_(-bound, bound)
            else:
                drawn.normal_(std=BIAS_STD)
            if self.identical:
                parameter[1:] = drawn

    def forward(self, slots: Tensor) -> Tensor:
        """``slots`` (E, N, D) → (E, N, D): row n of slice r goes through expert r."""
        hidden = torch.baddbmm(self.b1.unsqueeze(1), slots, self.w1)
        hidden = self.dropout(F.gelu(hidden, approximate="tanh"))
        return self.dropout(torch.baddbmm(self.b2.unsqueeze(1), hidden, self.w2))

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        experts, dim, hidden = self.w1.shape
        return f"experts={experts}, dim={dim}, hidden={hidden}, identical={self.identical}"
