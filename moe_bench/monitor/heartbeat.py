"""status.json while a run trains: the step and the time left."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.monitor.folder import RunFolder

EVERY_S = 10.0
RECENT_S = 30.0


class Eta:
    """Seconds left at the speed of late, from the wall clock: validation and probes are in it, as they are in the wait.

    Of late is the last quarter of this attempt, and ``RECENT_S`` seconds at least. The first step does not count: it
    waits for the first pictures, and first passes are slow.
    """

    def __init__(self) -> None:
        self._started = 0.0
        self._first = 0
        self._marks: deque[tuple[float, int]] = deque()  # (when, step), the oldest just before what is recent

    def start(self, step: int) -> None:
        """Training begins, after ``step`` steps of earlier attempts."""
        self._started, self._first = time.monotonic(), step
        self._marks.clear()

    def seconds(self, step: int, steps: int) -> float | None:
        """At the end of ``step``; None while there is nothing to go by."""
        now = time.monotonic()
        recent = max(RECENT_S, (now - self._started) / 4)
        while len(self._marks) > 1 and self._marks[1][0] <= now - recent:
            self._marks.popleft()
        if step > self._first and (not self._marks or now - self._marks[-1][0] > recent / 100):
            self._marks.append((now, step))
        when, then = self._marks[0] if self._marks else (now, step)
        return (now - when) / (step - then) * (steps - step) if step > then else None


class Heartbeat(Callback):
    """Writes at most every ``every_s`` seconds; only rank 0."""

    def __init__(self, folder: RunFolder, every_s: float = EVERY_S) -> None:
        self._folder = folder
        self._every_s = every_s
        self._eta = Eta()
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._eta.start(trainer.global_step)
        self._write(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._beat(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._folder.path.is_dir():  # the step at which it happened; the reason is written by who catches it
            self._write(trainer)

    def _beat(self, trainer: Trainer) -> None:
        if time.monotonic() - self._last >= self._every_s:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self._last = time.monotonic()
        if trainer.is_global_zero:
            step, steps = trainer.global_step, trainer.max_steps
            self._folder.update(step=step, steps=steps, eta_s=self._eta.seconds(step, steps))
