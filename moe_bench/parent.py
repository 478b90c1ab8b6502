"""A cell of a sweep ends with the process that started it, also where that one is killed and can tell nobody.

The sweep keeps the writing end of a pipe to each cell and never writes: the kernel closes it with its process, whatever
ended that. The cell then stops as by SIGTERM, with its step saved, and is killed if it does not stop. No torch.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

VARIABLE = "MOE_BENCH_PARENT"
"""Environment variable: the file descriptor of a cell's end of the pipe."""

CELL = "MOE_BENCH_CELL"
"""Environment variable: set in all processes of a run that a sweep started."""

GRACE_S = 120.0
"""How long a cell that is to stop may take to stop by itself: a step and a checkpoint."""

GONE = b"\nmoe-bench: the sweep that started this run is gone, and the run ends with it\n"


def is_cell() -> bool:
    """Whether this run is one of a sweep."""
    return CELL in os.environ


def end_with_it() -> None:
    """End this process when the sweep that started it is gone; nothing where none did."""
    if VARIABLE in os.environ:
        pipe = int(os.environ.pop(VARIABLE))  # popped: not for processes that this one starts
        threading.Thread(target=_watch, args=(pipe,), name="moe-bench parent", daemon=True).start()


def _watch(pipe: int) -> None:
    os.read(pipe, 1)  # returns when nobody is left who could write
    with suppress(OSError):
        os.write(2, GONE)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)  # a cell is a session of its own
