"""Loss and prec@1 over a whole validation set, every picture once.

A picture that cannot be decoded, where that is tolerated, counts as a wrong answer and has no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from moe_bench.errors import DataError
from moe_bench.training.accounting import of_all_ranks
from moe_bench.training.module import Batch, LitViT
from moe_bench.training.objective import correct, losses, targets
from moe_bench.training.periodic import Periodic, evaluating


class Validation(Periodic):
    """Measures val/loss, val/prec1 and val/count on the batches of ``loader()``; val/bad where there are bad pictures.

    ``size`` is the number of pictures; over all ranks exactly so many must have been counted. ``check`` is called
    between batches and may raise to stop; ``judge`` is told the bad pictures of all ranks (see data/dataset.py) and may
    raise too. Other callbacks get Lightning's ``on_validation_*`` hooks.
    """

    def __init__(
        self,
        loader: Callable[[], Iterable[Batch]],
        size: int,
        *,
        every: int = 0,
        check: Callable[[], None] | None = None,
        judge: Callable[[list[list[int]]], None] = lambda rows: None,
    ) -> None:
        super().__init__(every)
        self.loader = loader
        self.size = size
        self.check = check or (lambda: None)
        self.judge = judge

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """
        Raises:
            DataError: the pictures counted are not ``size``.
        """
        assert isinstance(module, LitViT)
        total = torch.zeros(3, dtype=torch.float64, device=module.device)
        bad: list[list[int]] = []
        _tell(trainer, "on_validation_start", module)
        with evaluating(module), trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(self.loader()):
                self.check()
                bad += batch["bad"].tolist()
                total += sums(module, trainer.strategy.batch_to_device(batch, module.device))
                _tell(trainer, "on_validation_batch_end", module, None, batch, number)
        loss, right, count = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        bad = of_all_ranks(bad)
        if count + len(bad) != self.size:
            raise DataError(
                f"validation counted {count + len(bad):.0f} pictures of {self.size}: some were lost or counted twice"
            )
        self.judge(bad)
        figures = {"val/loss": loss / count, "val/prec1": right / self.size, "val/count": self.size}
        return figures | ({"val/bad": len(bad)} if bad else {})

    def run(self, trainer: Trainer, module: LightningModule) -> None:
        super().run(trainer, module)
        _tell(trainer, "on_validation_end", module)  # with the result in ``trainer.callback_metrics``


def sums(module: LitViT, batch: Batch) -> Tensor:
    """Over the valid images of a batch: loss, right answers, images. float64 (3,)."""
    valid = batch["valid"]
    logits = module.model(batch["image"], valid=valid, detail=True).logits  # in detail for who watches the routing
    loss = losses(logits, targets(batch["label"], module.num_classes, module.loss), module.loss)
    right = correct(logits, batch["label"])
    return torch.stack([loss[valid].double().sum(), right[valid].double().sum(), valid.double().sum()])


def _tell(trainer: Trainer, hook: str, module: LightningModule, *args: Any) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        getattr(callback, hook)(trainer, module, *args)
