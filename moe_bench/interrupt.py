"""Ctrl-C and SIGTERM from the first line of a command to its last: exit code 130 or 143, and never a traceback.

While modules are loaded, and when all is done, nothing is lost by leaving at once. In between it is KeyboardInterrupt,
of SIGTERM its kind Terminated, so that files and terminals are left in order. Two things that become of one are mended
here: the interpreter prints and forgets one that hits a callback of its own, where we leave at once; and a library may
make an error of its own of it, which ``received`` tells apart from a bug.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from moe_bench.errors import EXIT_SIGINT, EXIT_SIGTERM, Terminated

Command = Callable[[], int]

EXIT_CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
WORDS = {EXIT_SIGINT: "interrupted", EXIT_SIGTERM: "stopped by SIGTERM"}

_received = 0


def answered(load: Callable[[], Command]) -> int:
    """``load()()``: import a command and run it."""
    ours = [number for number, usual in USUAL.items() if signal.getsignal(number) == usual]
    if signal.SIGINT in ours:  # not ignored, as a shell does for "command &"
        sys.unraisablehook = _leave_if_interrupted
    _take(ours, leave)
    command = load()
    try:
        _take(ours, _interrupt)
        return command()
    except KeyboardInterrupt as error:
        leave(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    finally:
        _take(ours, leave)


def received() -> int:
    """The exit code of the signal that has come, whatever became of its exception; 0 if none has."""
    return _received


def leave(number: int = signal.SIGINT, *_: Any) -> NoReturn:
    """End the process now."""
    code = EXIT_CODES[signal.Signals(number)]
    with suppress(OSError):  # a terminal that is gone
        os.write(2, f"moe-bench: {WORDS[code]}\n".encode())  # print() may not be used in a handler
    os._exit(code)


def _take(numbers: Sequence[signal.Signals], handler: Callable[..., NoReturn]) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _received
    _received = EXIT_CODES[signal.Signals(number)]
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _leave_if_interrupted(hooked: Any) -> None:
    if isinstance(hooked.exc_value, KeyboardInterrupt):
        leave(signal.SIGTERM if isinstance(hooked.exc_value, Terminated) else signal.SIGINT)
    sys.__unraisablehook__(hooked)
