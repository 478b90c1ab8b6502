"""What argparse lacks: types that say what was wanted, and help for who typed too little."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

from moe_bench.errors import ConfigError


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


def too_little(parser: argparse.ArgumentParser) -> int:
    """Print the help of a verb that was typed without the word it needs; the exit code."""
    parser.print_help(sys.stderr)
    return ConfigError.exit_code
