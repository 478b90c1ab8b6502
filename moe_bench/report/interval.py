"""The 95 % interval of a mean over seeds, by Student's t. A seed is the unit: it alone was drawn at random."""

from __future__ import annotations

import math
from functools import cache

LEVEL = 0.95


def half_width(std: float, n: int) -> float:
    """What to add to and take from the mean of ``n`` ≥ 2 values of sample standard deviation ``std``."""
    return quantile(n - 1) * std / math.sqrt(n)


@cache
def quantile(freedom: int) -> float:
    """Student's t with so many degrees of freedom stays below it in size with probability ``LEVEL``; 12.7 for one."""
    from scipy.special import stdtrit  # here: half a second, which ls need not wait for

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
