"""How a command ends: a message and an exit code for what a user can mend, a file for what only we can."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from moe_bench import interrupt, ranks
from moe_bench.errors import DISK_FULL, EXIT_SIGINT, CheckpointError, MoeBenchError, OwnCodeError, WorkerLostError
from moe_bench.secrets import redact

DEBUG_VARIABLE = "MOE_BENCH_DEBUG"
"""Environment variable: 1 prints tracebacks."""

EXIT_SIGPIPE = 141

_DIED = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)")
"""How torch tells of data processes that ended by a signal."""


def guarded(action: Callable[[], int], folder: Path | None = None) -> int:
    """Run ``action`` and return its exit code, or that of its failure, told on stderr.

    Args:
        action: what to do.
        folder: where the traceback of a bug belongs, if the folder exists by then; else it goes to a temporary file.
    """
    try:
        with naming_lost_workers():
            code = action()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        _give_up_output()
        return EXIT_SIGPIPE
    except (Exception, KeyboardInterrupt) as error:
        _print_traceback_if_asked()
        return _end_of(error, folder)


def _end_of(error: BaseException, folder: Path | None) -> int:
    """Tell ``error``. What a signal was made by a library, even by way of a message of ours, is told as the signal."""
    told = error.exit_code if isinstance(error, MoeBenchError) else None
    if isinstance(error, KeyboardInterrupt) or (interrupt.received() and told not in interrupt.WORDS):
        code = interrupt.received() or EXIT_SIGINT
        return _end(interrupt.WORDS[code], code, everywhere=True)
    if (refusal := _refusal_of_output(error)) is not None:
        _give_up_output()
        return _end(f"what is printed cannot be written: {refusal}", CheckpointError.exit_code, everywhere=True)
    if isinstance(error, OwnCodeError):
        return _end(f"{error}\nThe traceback is in {_keep_traceback(folder)}", error.exit_code)
    if isinstance(error, MoeBenchError):
        return _end(str(error), error.exit_code, everywhere=error.everywhere)
    last = traceback.format_exception_only(error)[-1].strip()
    return _end(f"a bug, sorry: {last}\nThe traceback is in {_keep_traceback(folder)}", 1)


def _refusal_of_output(error: BaseException) -> str | None:
    """Why stdout takes no more, as into a file on a full disk, where that is behind ``error``."""
    if getattr(error.__cause__ or error, "errno", None) in DISK_FULL:
        try:
            print(flush=True)
        except OSError as refused:
            return refused.strerror
    return None


def _give_up_output() -> None:
    """Let Python's own flush at the end of the process find something that takes all."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, code: int, everywhere: bool = False) -> int:
    """Tell ``message``, once: a rank hands it to the process that started it, which hears all of them."""
    message = redact(message)
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
    if (line := ranks.line()) is not None:
        line.tell(end=code, message=message)
    elif rank == "0" or not everywhere:
        print(f"moe-bench: {message}", file=sys.stderr)
    return code


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Tell the death of a data process as what it is wherever it is noticed: torch raises on a signal, in any line."""
    try:
        yield
    except RuntimeError as error:
        found = _DIED.search(str(error))
        if not found:
            raise
        raise worker_died(found[1]) from error


def worker_died(pids: str) -> WorkerLostError:
    return WorkerLostError(
        f"a data process died (pid {pids}), most often because memory ran out; "
        "lower runtime.workers or runtime.device_batch"
    )


@contextmanager
def blaming(setting: str, package: str) -> Iterator[None]:
    """Raise OwnCodeError for an error that came through the user's ``package``, which ``setting`` brought in.

    An error that says by itself what is wrong stays what it is, and so does one that the package has no part in.
    """
    try:
        yield
    except MoeBenchError:
        raise
    except Exception as error:
        frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_of(frame, package)]
        if not frames or interrupt.received():
            raise
        frame, line = frames[-1]
        last = traceback.format_exception_only(error)[-1].strip()
        raise OwnCodeError(
            f"{last}\n  in {frame.f_code.co_name}, {frame.f_code.co_filename}:{line}\n"
            f"This is code that {setting} names, and none of moe-bench's."
        ) from error


def _is_of(frame: FrameType, package: str) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == package != "moe_bench"


def _print_traceback_if_asked() -> None:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        print(redact(traceback.format_exc()), file=sys.stderr)


def _keep_traceback(folder: Path | None) -> Path:
    rank = os.environ.get("LOCAL_RANK", "0")
    name = "traceback.txt" if rank == "0" else f"traceback-rank{rank}.txt"
    if folder is None or not folder.is_dir():
        folder = Path(tempfile.mkdtemp(prefix="moe-bench-"))
    file = folder / name
    file.write_text(redact(traceback.format_exc()), encoding="utf-8")
    return file
