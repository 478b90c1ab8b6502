"""Which steps may change the weights: a look at each step's loss and gradient before its update.

A step is bad if its loss or its gradient norm is not finite, or if the norm is a spike. A bad step is left out, data
and schedule going on as if it had been taken, as long as there are few; one too many is divergence.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

WINDOW = 100  # steps in a row, of which so many may be left out, and whose norms tell what is usual
ENOUGH = 10  # norms before one can be a spike


class Watch:
    """Of any ``WINDOW`` steps in a row ``allowed`` may be left out.

    ``spike``: a gradient norm of more than so many times the median of the good steps among them is bad; None: only
    what is not finite.
    """

    def __init__(self, allowed: int = 0, spike: float | None = None) -> None:
        self.allowed = allowed
        self.spike = spike
        self.skipped = 0  # in the whole run
        self._norms: deque[float | None] = deque(maxlen=WINDOW)  # None: a step that was left out

    def fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step's figures; None if it may be taken."""
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"{what} is {value}"
        good = [earlier for earlier in self._norms if earlier is not None]
        if self.spike is not None and len(good) >= ENOUGH and norm > self.spike * median(good):
            return f"gradient norm is {norm:.4g}, {norm / median(good):.1f} times its median"
        return None

    def take(self, norm: float) -> None:
        """A good step."""
        self._norms.append(norm)

    def skip(self) -> bool:
        """A bad step: whether it may be left out."""
        self._norms.append(None)
        self.skipped += 1
        return sum(norm is None for norm in self._norms) <= self.allowed

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = state["skipped"]
        self._norms = deque(state["norms"], maxlen=WINDOW)
