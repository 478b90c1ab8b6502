"""status.json while a run trains: step, time left, and a heartbeat that tells a live run from a dead one."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.monitor.folder import RunFolder

EVERY_S = 10.0


class Eta:
    """Seconds left, from the wall clock of this attempt: validation and probes are in it, as they are in the wait."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._from = 0

    def start(self, step: int) -> None:
        self._started, self._from = time.monotonic(), step

    def seconds(self, step: int, steps: int) -> float | None:
        done = step - self._from
        return None if done <= 0 else (time.monotonic() - self._started) / done * (steps - step)


class Heartbeat(Callback):
    """Writes at most every ``every_s`` seconds, in training and in validation; only rank 0."""

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

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
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
