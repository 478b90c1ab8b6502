"""Ctrl-C from the first line of a command to its last: exit code 130, and never a traceback.

While modules are loaded, and when all is done, nothing is lost by leaving at once. In between it is KeyboardInterrupt,
so that files and terminals are left in order. Two things that become of one are mended here: the interpreter prints and
forgets one that hits a callback of its own, where we leave at once; and a library may make an error of its own of it,
which ``received`` tells apart from a bug.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from moe_bench.errors import EXIT_SIGINT

Command = Callable[[], int]

_received = False


def answered(load: Callable[[], Command]) -> int:
    """``load()()``: import a command and run it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as a shell does for "command &"
        return load()()
    sys.unraisablehook = _leave_if_interrupted
    signal.signal(signal.SIGINT, leave)
    command = load()
    try:
        signal.signal(signal.SIGINT, _interrupt)
        return command()
    except KeyboardInterrupt:
        leave()
    finally:
        signal.signal(signal.SIGINT, leave)


def received() -> bool:
    """Whether Ctrl-C has come, whatever became of its exception."""
    return _received


def leave(*_: Any) -> NoReturn:
    """End the process now."""
    with suppress(OSError):  # a terminal that is gone
        os.write(2, b"moe-bench: interrupted\n")  # print() may not be used in a handler
    os._exit(EXIT_SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _received
    _received = True
    raise KeyboardInterrupt


def _leave_if_interrupted(hooked: Any) -> None:
    if isinstance(hooked.exc_value, KeyboardInterrupt):
        leave()
    sys.__unraisablehook__(hooked)
