"""``python -m moe_bench`` is the command ``moe-bench``."""

from __future__ import annotations

import sys

from moe_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
