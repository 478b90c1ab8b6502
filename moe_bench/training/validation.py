"""Loss and prec@1 over a whole validation set, every picture once: every so many steps, and at the end.

Not Lightning's validation loop: its schedule is tied to epochs, and after a resume it skips the validation of the step
that was saved. Here the end has exactly one, also if a run was stopped between its last step and its last validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from moe_bench.errors import DataError, Interrupted
from moe_bench.training.module import Batch, LitViT
from moe_bench.training.objective import correct, losses, targets


@torch.no_grad()
def sums(module: LitViT, batch: Batch) -> Tensor:
    """Over the valid images of a batch: loss, right answers, images. float64 (3,)."""
    logits, valid = module.model(batch["image"], valid=batch["valid"]).float(), batch["valid"]
    loss = losses(logits, targets(batch["label"], module.num_classes, module.loss), module.loss)
    right = correct(logits, batch["label"])
    return torch.stack([loss[valid].double().sum(), right[valid].double().sum(), valid.double().sum()])


class Validation(Callback):
    """Validates on ``loader()`` every ``every`` steps (0: not) and once after the last step, when ``metrics`` is the
    result.

    ``size`` is the number of pictures; over all ranks exactly so many must have been counted. ``check`` is called
    between batches and may raise to stop. Other callbacks get Lightning's ``on_validation_*`` hooks.
    """

    def __init__(
        self,
        loader: Callable[[], Iterable[Batch]],
        size: int,
        *,
        every: int = 0,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.loader = loader
        self.size = size
        self.every = every
        self.check = check or (lambda: None)
        self.step: int | None = None  # last validated
        self.metrics: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due(trainer):  # the run was stopped during this validation
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

    def run(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Validate now and log: val/loss, val/prec1, val/count.

        Raises:
            DataError: the pictures counted are not ``size``.
        """
        assert isinstance(module, LitViT)
        _tell(trainer, "on_validation_start", module)
        total = torch.zeros(3, dtype=torch.float64, device=module.device)
        with evaluating(module), trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(self.loader()):
                self.check()
                total += sums(module, trainer.strategy.batch_to_device(batch, module.device))
                _tell(trainer, "on_validation_batch_end", module, None, batch, number)
        loss, right, count = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        if count != self.size:
            raise DataError(f"validation counted {count:.0f} pictures of {self.size}: some were lost or counted twice")
        self.metrics = {"val/loss": loss / count, "val/prec1": right / count, "val/count": count}
        self.step = trainer.global_step
        log_now(trainer, self.metrics)
        _tell(trainer, "on_validation_end", module)
        return self.metrics

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.metrics = state_dict["step"], dict(state_dict["metrics"])


def log_now(trainer: Trainer, metrics: dict[str, float]) -> None:
    """One row of ``metrics`` at the current step, in every logger, and for progress displays."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each part's own mode again after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
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


def _tell(trainer: Trainer, hook: str, module: LightningModule, *args: Any) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        getattr(callback, hook)(trainer, module, *args)
