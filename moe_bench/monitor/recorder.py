"""One row of metrics.jsonl for each logging step: whatever the module and the callbacks logged for it.

Lightning would write a row itself, but after the callbacks of the step: a run stopped at that step would have saved its
checkpoint and lost the row. It would also count steps from zero. So the module logs with ``logger=False`` and the rows
are written here, before the checkpoint; ``step`` is the number of optimiser steps done.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

ELSEWHERE = ("val/", "probe/", "step")  # evaluations write their own rows


class Recorder(Callback):
    """Belongs after the callbacks that measure (throughput, routing) and before the one that saves."""

    def __init__(self, log_every: int) -> None:
        self._log_every = max(1, log_every)
        self._written = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == self._written or (step % self._log_every and step != trainer.max_steps):
            return
        self._written = step
        figures = trainer.callback_metrics.items()
        row = {name: float(value) for name, value in figures if not name.startswith(ELSEWHERE)}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)
