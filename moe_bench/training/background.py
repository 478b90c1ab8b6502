"""Work on a thread of its own while training goes on, and the copy of a state that such work needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from moe_bench.errors import CheckpointError
from moe_bench.model import pages
from moe_bench.training.durable import bytes_of
from moe_bench.training.memory import free_bytes

SPARE = 1.5  # times the size of a copy must be free before one is made


class Background:
    """Does one job at a time; ``error`` is what went wrong with the last one.

    The process does not end before its job has, unless it is killed.
    """

    def __init__(self) -> None:
        self.error: CheckpointError | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the job before, and begin this one."""
        self.wait()
        self._thread = threading.Thread(target=self.do, args=(job,), name="checkpoint")
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        """Do it now, in this thread."""
        self.error = None
        try:
            job()
        except CheckpointError as error:
            self.error = error
        except Exception as error:  # on a thread there is nobody to raise it to
            self.error = CheckpointError(f"a checkpoint could not be written: {type(error).__name__}: {error}")

    def wait(self) -> None:
        """Until there is nothing to do."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def has_room_for(state: Any) -> bool:
    """Whether a copy of ``state`` fits the memory of this machine with room to spare."""
    return free_bytes("cpu") > SPARE * bytes_of(state)


def copied(state: Any, into: Any = None) -> Any:
    """``state`` with every tensor in nested containers copied to the host, in memory of its own.

    ``into`` is an earlier copy that nobody needs any more: where a tensor of it has the place, shape and dtype of one
    of ``state``, its memory is filled again. The kernel takes longer to hand memory out than it takes to fill it.
    """
    if isinstance(state, torch.Tensor):
        fits = isinstance(into, torch.Tensor) and (into.shape, into.dtype) == (state.shape, state.dtype)
        return (into if fits else pages.empty(state.shape, state.dtype)).copy_(state.detach())
    if isinstance(state, Mapping):
        earlier = into if isinstance(into, Mapping) else {}
        return {key: copied(value, earlier.get(key)) for key, value in state.items()}
    if isinstance(state, list | tuple):
        parts = into if isinstance(into, list | tuple) and len(into) == len(state) else [None] * len(state)
        return type(state)(map(copied, state, parts))
    return state
