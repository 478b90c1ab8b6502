"""A watched run of ``tiny`` on two processes, for test_telemetry: ``python -m monitor.two_ranks FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from .test_telemetry import train

if __name__ == "__main__":
    train(Path(sys.argv[1]), ranks=2)
