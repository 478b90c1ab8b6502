"""Sparsity-constrained transport (section 2.5, eq. 9): the affinity Π that meets the buffer capacity by itself.

    maximise ⟨Π, U⟩ − ½‖Π‖²   with  Π ≥ 0,  Π1 = 1,  Πᵀ1 = b = T/E,  at most C nonzeros a column

Give every token a price α. Then each expert alone takes its C best tokens of U − α and spreads its mass b over them by
a projection on the simplex; a price is right when its token's row sums to 1. Column sums are thus exact and rows
approximate. The solvers differ in how they look for α:

    adam     gradient steps on α, the authors' solver and the default
    sweeps   block-coordinate descent, exact column and row steps in turn (module ``dual``)
    dual     gradient steps on two numbers an expert, near the optimum (module ``dual``)

G groups, T tokens, E experts, C slots. Here and in ``dual`` tokens are the last axis: utilities and plans (G, E, T),
prices (G, 1, T), an expert's own numbers (G, E, 1). Padding has an infinite price, so nobody takes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_bench.routing.dual import dual_prices, simplex_threshold, sweep_prices
from moe_bench.routing.numerics import real_tokens, top, wide
from moe_bench.routing.words import SOLVERS

GRADIENT_TOLERANCE = 1e-3


def iterations_of(solver: str, tokens: int, experts: int) -> int:
    """As many as a solver usually needs: 20 (adam, as the authors), 3 (sweeps), 100 (dual).

    Below 50 tokens an expert the objective of dual is coarse, and it takes 400.
    """
    return {"adam": 20, "sweeps": 3, "dual": 400 if tokens < 50 * experts else 100}[solver]


def sparse(
    utility: Tensor,
    capacity: int,
    solver: str = "adam",
    iterations: int | None = None,
    lr: float = 1e-2,
    mask: Tensor | None = None,
) -> Tensor:
    """Eq. 9: a plan Π (G, T, E) for ``utility`` (G, T, E), which the paper takes as softmax(XW).

    Columns sum to T/E over at most ``capacity`` tokens; rows sum to about 1. ``iterations`` None: as ``iterations_of``.
    ``lr`` is adam's. The search is not differentiated, the last projection is: gradients see the prices as constants.

    Raises ValueError for an unknown solver or less than one iteration.
    """
    if solver not in SOLVERS:
        raise ValueError(f"sparse transport has no solver {solver!r}; use one of {', '.join(SOLVERS)}")
    if iterations is not None and iterations < 1:
        raise ValueError(f"solver {solver} needs at least 1 iteration, not {iterations}")
    utility = wide(utility).mT
    experts, tokens = utility.shape[-2:]
    real = real_tokens(utility.mT, mask).mT  # (G, 1, T)
    iterations = iterations or iterations_of(solver, tokens, experts)
    mass = real.sum(-1, keepdim=True) / experts  # (G, 1, 1), b
    with torch.no_grad():
        free = torch.where(real > 0, 0.0, torch.inf).to(utility.dtype)
        if solver == "adam":
            price = _adam_prices(utility, mass, capacity, free, iterations, lr)
            preference = utility - price
        elif solver == "sweeps":
            price, preference = sweep_prices(utility, mass, capacity, free, iterations)
        else:
            price, preference = dual_prices(utility, mass, capacity, free, iterations)
        chosen = top(preference, min(capacity, tokens))
    plan = _spread(utility - price, chosen, mass).mT
    return plan if mask is None else plan * mask.unsqueeze(-1)


def _adam_prices(utility: Tensor, mass: Tensor, capacity: int, free: Tensor, iterations: int, lr: float) -> Tensor:
    """Prices by Adam on the semi-dual, whose gradient in α is what each row misses: 1 − Π1.

    As the authors' optimiser: a group stops after the step whose gradient norm is within the tolerance. The others
    go on, which costs no synchronisation with the device.
    """
    price, real = free, torch.isfinite(free)
    first, second = torch.zeros_like(free), torch.zeros_like(free)
    going = torch.ones_like(mass)
    for step in range(1, iterations + 1):
        offers = utility - price
        plan = _spread(offers, top(offers, min(capacity, offers.shape[-1])), mass)
        missing = (1 - plan.sum(-2, keepdim=True)) * real
        first = 0.9 * first + 0.1 * missing
        second = 0.999 * second + 0.001 * missing.square()
        price = price - going * lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        going = going * (missing.norm(dim=-1, keepdim=True) > GRADIENT_TOLERANCE)
    return price


def _spread(offers: Tensor, chosen: Tensor, mass: Tensor) -> Tensor:
    """Each expert's mass over its ``chosen`` tokens (G, E, C): the nearest point to its ``offers`` on the simplex."""
    values = offers.gather(-1, chosen)
    threshold = simplex_threshold(values.sort(dim=-1, descending=True).values, mass)
    return torch.zeros_like(offers).scatter(-1, chosen, (values - threshold).relu())
