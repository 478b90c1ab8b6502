"""Types for argparse that say what was wanted."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


def positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    """A number above 0, as ``kind`` (int or float) reads it."""

    def read(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"a number above 0 wanted, not {word!r}")
        return value

    return read
