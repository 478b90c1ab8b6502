"""The command ``moe-bench``, also as ``python -m moe_bench``. Nothing is imported before Ctrl-C has its answer."""

from __future__ import annotations

import os
import sys

try:
    from moe_bench import interrupt
except KeyboardInterrupt:
    os._exit(130)


def main() -> int:
    """What the script moe-bench runs. Returns the exit code, except in a rank that has met others: that ends here."""
    code = interrupt.answered(_load)
    from moe_bench.ranks import depart  # at the end: not before Ctrl-C has its answer

    depart(code)
    return code


def _load() -> interrupt.Command:
    from moe_bench.cli import main

    return main


if __name__ == "__main__":
    sys.exit(main())
