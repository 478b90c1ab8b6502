"""How good a solver of eq. 9 is: the upper bound that its prices prove, and the objective that its plan reaches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moe_bench.routing import softmax
from moe_bench.routing.dual import dual_prices, sweep_prices
from moe_bench.routing.transport import _adam_prices

from .reference import semi_dual


def utility_of(seed: int, *shape: int, std: float = 2.0) -> Tensor:
    return softmax(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * std)


def prices(utility: Tensor, capacity: int, solver: str, iterations: int) -> np.ndarray:
    """Token prices (T,) of the one group in ``utility`` (1, T, E)."""
    return prices_and_preference(utility, capacity, solver, iterations)[0][0, 0].numpy()


def prices_and_preference(utility: Tensor, capacity: int, solver: str, iterations: int) -> tuple[Tensor, Tensor]:
    """Prices (1, 1, T) and the preference (1, E, T) by which experts choose, for ``utility`` (1, T, E)."""
    u = utility.mT
    free, mass = torch.zeros_like(u[:, :1]), torch.full((1, 1, 1), u.shape[2] / u.shape[1], dtype=u.dtype)
    if solver == "adam":
        price = _adam_prices(u, mass, capacity, free, iterations, 1e-2)
        return price, u - price
    solve = sweep_prices if solver == "sweeps" else dual_prices
    return solve(u, mass, capacity, free, iterations)


def bound(utility: Tensor, capacity: int, solver: str, iterations: int) -> float:
    """The upper bound of eq. 9 that a solver reaches; lower is better."""
    return semi_dual(utility[0].numpy(), prices(utility, capacity, solver, iterations), capacity)


def objective(plan: Tensor, utility: Tensor) -> float:
    """Eq. 9's own value, which no feasible plan can raise above a bound."""
    return float((plan * utility).sum() - plan.square().sum() / 2)
