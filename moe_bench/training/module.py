"""One training step, for Lightning: forward, loss, the update and what is told about it.

What is random in it follows from the seed and its place in training (see randomness.py), so that a resumed run
continues bit for bit without any generator state in its checkpoints.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from moe_bench.errors import DivergedError
from moe_bench.model import VisionTransformer
from moe_bench.routing.balance import biased_routers, loads, rebalance
from moe_bench.routing.stats import largest_logits
from moe_bench.training.expert_parallel import average_expert_gradients
from moe_bench.training.gradients import clip, total_norm
from moe_bench.training.layout import apart, outline
from moe_bench.training.objective import correct, losses, mixup, mixup_weight, targets
from moe_bench.training.optim import Schedule, learning_rate, make_optimizer, parameter_groups
from moe_bench.training.randomness import begin_piece
from moe_bench.training.store import MODEL_PREFIX, check_fits
from moe_bench.training.watch import WINDOW, Watch

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Optimization:
    """Numbers of the optimiser; what they mean is said in ``optim``."""

    schedule: Schedule
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.1
    decay: str = "kernels"
    head_decay: float | None = None
    clip: float | None = 1.0  # global gradient norm
    skip: int = 0  # steps of any WINDOW that may be left out
    spike: float | None = None  # times the usual gradient norm


class LitViT(LightningModule):
    """Trains ``model``. Logs each step: train/loss, train/aux_loss, train/prec1, lr, grad_norm.

    And train/skipped, how many steps were left out so far, where some may be.

    ``loss`` is "softmax" or "sigmoid"; ``mixup_alpha`` 0 is off; ``name`` says which run it is in error messages.
    """

    def __init__(
        self,
        model: VisionTransformer,
        optimization: Optimization,
        *,
        num_classes: int,
        loss: str = "softmax",
        mixup_alpha: float = 0.0,
        seed: int = 0,
        name: str = "",
    ) -> None:
        super().__init__()
        self.model = model
        self.optimization = optimization
        self.num_classes = num_classes
        self.loss = loss
        self.mixup_alpha = mixup_alpha
        self.seed = seed
        self.name = name
        self.spread: Callable[[VisionTransformer], None] = lambda model: None  # lays the model out over the ranks
        self._sums: Tensor | None = None  # over the micro-batches of a step: loss, aux_loss, prec1, count
        self._logits: list[Tensor] = []  # the largest of each router's, either sign, in each micro-batch of a step
        self._watch = Watch(optimization.skip, optimization.spike)
        self._biased = biased_routers(model)
        self._loads: Tensor | None = None  # (L, E) over the micro-batches of a step, where routers have a bias

    def configure_model(self) -> None:
        """Lightning calls this when the ranks have met, before there is an optimiser."""
        self.spread(self.model)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """By weight decay, in the order that checkpoints keep."""
        o = self.optimization
        return parameter_groups(self.model, o.weight_decay, o.decay, o.head_decay)

    def configure_optimizers(self) -> Optimizer:
        o = self.optimization
        return make_optimizer(apart(self.parameter_groups()), o.optimizer, betas=o.betas, momentum=o.momentum)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        begin_piece(self.model, self.seed, self.trainer.global_step, self._piece(batch_idx), len(batch["image"]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch. Training batches are full: ``valid`` is all true and not looked at."""
        images, target = batch["image"], targets(batch["label"], self.num_classes, self.loss)
        if self.mixup_alpha:
            place = (self.seed, self.trainer.global_step, self._piece(batch_idx))
            share = mixup_weight(self.mixup_alpha, place)
            images, target = mixup(images, share), mixup(target, share)
        output = self.model(images, detail=True)
        main = losses(output.logits, target, self.loss).mean()
        right = correct(output.logits, batch["label"]).float().mean()
        told = torch.stack([main.detach(), output.aux_loss.detach(), right, torch.ones_like(right)])
        self._sums = told if self._sums is None else self._sums + told
        self._logits += largest_logits(output.routing.values())
        if self._biased:  # counted here and not in the router, whose forward pass checkpointing repeats
            load = loads(output.routing.values())
            self._loads = load if self._loads is None else self._loads + load
        return main + output.aux_loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.trainer.global_step, self.optimization.schedule)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer | LightningOptimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the gradient; leave the step out, or refuse to go on, if it or the loss is not finite; clip.

        One read of device values a step; it is what lets a diverging run stop before its weights are spoilt.
        """
        parameters = list(self.model.parameters())
        average_expert_gradients(parameters)
        norm = total_norm(parameters)
        assert self._sums is not None
        means = self.trainer.strategy.reduce(self._sums[:3] / self._sums[3], reduce_op="mean")
        self._sums = None
        loss, aux_loss, prec1, grad_norm = torch.cat([means, norm.reshape(1)]).tolist()
        rate = optimizer.param_groups[0]["lr"]
        figures = {"train/loss": loss, "train/aux_loss": aux_loss, "train/prec1": prec1, "lr": rate}
        if (fault := self._watch.fault(loss + aux_loss, grad_norm)) is not None:
            told = f"lr={rate:.3g}, loss {loss:.4g}, gradient norm {grad_norm:.4g}{self._told_logits()}"
            self._leave_out(optimizer, fault, told)
        else:
            self._watch.take(grad_norm)
            if self.optimization.clip is not None:
                clip(parameters, self.optimization.clip, norm)
        self._logits = []
        if self._watch.allowed:
            figures["train/skipped"] = float(self._watch.skipped)
        # Lightning takes "step" for the number of the row; updates done, this one included.
        self.log_dict({"step": float(self.trainer.global_step + 1), **figures, "grad_norm": grad_norm})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, and then the biases by which tokens find experts that had too few."""
        super().optimizer_step(*args, **kwargs)  # the last micro-batch of the step runs in here
        if self._loads is not None:
            rebalance(self._biased, self._loads)
            self._loads = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["watch"] = self._watch.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises CheckpointError, naming what differs, where Lightning would print every key."""
        ours = self.state_dict(keep_vars=True)
        check_fits({name: outline(value) for name, value in ours.items()}, checkpoint["state_dict"])
        if "watch" in checkpoint:  # not yet, in older ones
            self._watch.load_state_dict(checkpoint["watch"])

    def figures(self) -> dict[str, int]:
        """What a summary tells of training: how many steps were left out, where some might be."""
        return {"steps/skipped": self._watch.skipped} if self._watch.allowed else {}

    def _piece(self, batch_idx: int) -> int:
        """The number of a micro-batch among those of its step on all ranks, in the order of their pictures."""
        pieces = self.trainer.accumulate_grad_batches
        return self.global_rank * pieces + batch_idx % pieces

    def _told_logits(self) -> str:
        """Of a bad step, which every rank has at once: whether it is the routers' logits that have grown."""
        if not self._logits:
            return ""
        largest = torch.stack(self._logits).max().nan_to_num(nan=torch.inf)
        value = float(self.trainer.strategy.reduce(largest, reduce_op="max"))
        return f", largest router logit {value:.4g}" if math.isfinite(value) else ", router logits not finite"

    def _leave_out(self, optimizer: Optimizer | LightningOptimizer, fault: str, figures: str) -> None:
        """Without gradients the optimiser changes neither weights nor moments. Or raise DivergedError.

        All ranks see the same reduced numbers and so decide alike, before any of them has changed a weight.
        """
        optimizer.zero_grad()
        self._loads = None
        where = f"{fault} at step {self.trainer.global_step} ({self.name}, {figures})"
        few = f"{self._watch.allowed} of {WINDOW} steps may be left out (recipe.skip)"
        if self._watch.skip():
            if self.trainer.is_global_zero:
                log.warning("%s; the step is left out, number %d: %s", where, self._watch.skipped, few)
            return
        raise DivergedError(
            f"{where}{f'; {few}' if self._watch.allowed else ''}. The weights were not updated. "
            "Try a lower recipe.lr, more recipe.warmup or a lower recipe.clip."
        )


assert MODEL_PREFIX == "model."  # the attribute above; the store strips it
