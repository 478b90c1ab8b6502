"""Measurements that training waits for: every so many steps, and once after the last one.

Not Lightning's validation loop: its schedule is tied to epochs, and after a resume it skips the validation of the step
that was saved. Here the end has exactly one measurement, also when a run was stopped between its last step and that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from moe_bench.errors import Interrupted


class Periodic(Callback):
    """Measures every ``every`` steps (0: not) and after the last; ``metrics`` is the newest result."""

    def __init__(self, every: int = 0) -> None:
        self.every = every
        self.step: int | None = None  # of the newest result
        self.metrics: dict[str, float] = {}

    @abstractmethod
    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The figures now. Every rank calls it and gets the same."""

    def run(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure, and log a row at the current step to every logger and for progress displays."""
        module.zero_grad(set_to_none=True)  # applied already; a quarter of the model's state, free while measuring
        self.metrics = self.measure(trainer, module)
        self.step = trainer.global_step
        exact = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.metrics.items()}
        trainer.callback_metrics.update(exact)  # displays round it as the summary will
        for logger in trainer.loggers if self.metrics else ():  # a probe of no sets has nothing to tell
            logger.log_metrics(self.metrics, step=self.step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due(trainer):  # the run was stopped during this measurement
            self.run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and self._is_due(trainer):
            # ``StopAtBoundary``, later in the list, saves this step and leaves; resumed, the run begins with this.
            with suppress(Interrupted):
                self.run(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step != trainer.global_step:
            self.run(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """For a run that was resumed after its last step: Lightning calls no training hook then."""
        if self.step != trainer.global_step:
            with on_device(trainer, pl_module):
                self.run(trainer, pl_module)

    def _is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        return bool(self.every) and 0 < step < trainer.max_steps and step % self.every == 0 and self.step != step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.metrics = state_dict["step"], dict(state_dict["metrics"])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside, each part's own mode again after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def on_device(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """On the training device inside; when a fit ends Lightning has moved the model off it."""
    home = module.device
    module.to(trainer.strategy.root_device)
    try:
        yield
    finally:
        module.to(home)
