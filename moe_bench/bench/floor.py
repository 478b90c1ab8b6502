"""What a layer is compared with: its experts without a router, and one MLP that does as much work.

Both are as plain as torch has it and stay so, whatever the layer learns to do better: they are the yardstick.
E experts, N rows of an expert, D width, H hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_bench.model import Experts


class Floor(nn.Module):
    """The E expert MLPs over ready-made rows (E, N, D): no gate, no choice, no row is moved.

    It works on the parameters of ``experts``, as all our layers of one case do, so that no side has warmer memory.
    """

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.w1, self.b1, self.w2, self.b2 = experts.w1, experts.b1, experts.w2, experts.b2

    def forward(self, rows: Tensor) -> Tensor:
        """(E, N, D) → (E, N, D)."""
        hidden = F.gelu(torch.baddbmm(self.b1.unsqueeze(1), rows, self.w1), approximate="tanh")
        return torch.baddbmm(self.b2.unsqueeze(1), hidden, self.w2)


def dense_mlp(width: int, hidden: int) -> nn.Module:
    """(..., D) → (..., D) through one hidden layer."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
