"""How this program starts itself again."""

from __future__ import annotations

import os
import sys


def this_program() -> list[str]:
    """``python -m moe_bench``; like this process, it finds modules in the current directory, or does not."""
    isolated = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    return [sys.executable, *isolated, "-m", "moe_bench"]
