"""Stopping on Ctrl-C or SIGTERM: the signal sets a flag, the work stops at its next safe point, the exit code tells.

A handler only sets the flag: writing a checkpoint inside one could interrupt a step or a save. Safe points are step
boundaries, where a checkpoint is written first, and batches of an evaluation, which changes nothing. A step may take
minutes, so the first signal is answered with a line. A second signal ends the process at once; the checkpoint before
stays whole, because saving is by rename.

Of many ranks some get a signal earlier than others, or alone. So at each safe point all agree whether to stop.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench import ranks
from moe_bench.errors import EXIT_SIGINT, EXIT_SIGTERM, Interrupted

STOPPING = b"\nmoe-bench: stopping after this step; a second signal leaves at once\n"

EXIT_CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}


class StopSignals:
    """Use as a context around a run. ``install`` may be called again when someone else took the handlers."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.agree: Callable[[int], int] = int  # the largest of all ranks' numbers; see ``Group.largest``
        self._came = {"here": 0, "passed on": 0}  # signals of both ways: one to all processes comes in each
        self._before: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()

    def install(self) -> None:
        """Take the handlers; outside the main thread Python allows none, and nothing happens."""
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                before = signal.signal(number, self._handle)
                self._before.setdefault(number, before)
        if (line := ranks.line()) is not None:
            line.on_signal = self._hear

    def restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._before = {}
        if (line := ranks.line()) is not None:
            line.on_signal = ranks.leave

    def wanted(self) -> signal.Signals | None:
        """The signal to stop for, if any rank got one. Every rank must ask, at the same points."""
        number = self.agree(self.received or 0)
        return signal.Signals(number) if number else None

    def check(self) -> None:
        """Raise Interrupted if a signal came. Called where nothing is lost by leaving, by every rank."""
        if (stop := self.wanted()) is not None:
            raise interrupted(stop)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked data worker: its parent tells it when to end
            return
        self._receive(number, "here")

    def _hear(self, number: int) -> None:
        """As ``_handle``, for a signal that was passed on by who started this rank."""
        self._receive(number, "passed on")

    def _receive(self, number: int, way: str) -> None:
        self._came[way] += 1
        if self._came[way] > 1:
            os._exit(EXIT_CODES[signal.Signals(number)])
        if self.received is not None:
            return
        self.received = signal.Signals(number)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with suppress(OSError):  # a terminal that is gone
                os.write(2, STOPPING)  # print() may not be used in a handler: it could be in the middle of another

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        # A signal to the whole process group also kills data workers, which surfaces as an error of the loader.
        if isinstance(error, Exception) and not isinstance(error, Interrupted) and self.received is not None:
            raise interrupted(self.received) from error


def interrupted(stop: signal.Signals, saved: int | None = None) -> Interrupted:
    """The error that ends a run by a signal, after saving step ``saved``."""
    after = "" if saved is None else f"; step {saved:,} is saved, and the same command goes on from there"
    return Interrupted(f"stopped by {stop.name}{after}", EXIT_CODES[stop])


class StopAtBoundary(Callback):
    """Before the first step after a signal: save, then leave. Belongs last among the callbacks."""

    def __init__(self, signals: StopSignals, save: Callable[[Trainer], None]) -> None:
        self.signals = signals
        self.save = save

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.install()  # Lightning has put its own in place, which end a run with exit code 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0 and (stop := self.signals.wanted()) is not None:
            self.save(trainer)
            raise interrupted(stop, saved=trainer.global_step or None)
