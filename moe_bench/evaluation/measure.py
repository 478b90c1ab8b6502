"""Every validation picture's answer under every setting. N pictures, B a batch.

Pictures are read once for each order: a batch goes through the model under one setting after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from moe_bench.data.bad import Tolerance
from moe_bench.data.index import ShardIndex
from moe_bench.data.loader import BatchLoader, eval_loader
from moe_bench.data.plan import Plan, evaluation_share
from moe_bench.evaluation.settings import Setting
from moe_bench.model import MoE
from moe_bench.routing import Capacity
from moe_bench.training.objective import correct, losses, targets

NORMAL_95 = 1.96  # standard deviations either side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Answers:
    """Of all pictures, in the order of the data set; a picture that could not be decoded is a wrong answer."""

    predicted: Tensor  # (N,) int64, −1 where there is none
    right: Tensor  # (N,) bool
    loss: float  # mean over the pictures that could be decoded

    @property
    def prec1(self) -> float:
        return float(self.right.double().mean())


@dataclass(frozen=True)
class Change:
    """One setting's answers against another's, picture by picture."""

    prec1: float  # difference of prec@1
    ci95: float  # half of its 95 % interval over pictures
    changed: float  # share of pictures whose prediction is another
    became_right: int
    became_wrong: int

    @classmethod
    def between(cls, now: Answers, before: Answers) -> Change:
        """The interval is that of paired answers: only pictures whose answer turned right or wrong widen it."""
        count = len(now.right)
        gained, lost = int((now.right & ~before.right).sum()), int((before.right & ~now.right).sum())
        difference = (gained - lost) / count
        spread = math.sqrt(max(0.0, (gained + lost) / count - difference**2) / count)
        changed = float((now.predicted != before.predicted).double().mean())
        return cls(difference, NORMAL_95 * spread, changed, gained, lost)


@dataclass(frozen=True)
class Judge:
    """The validation pictures, and how they are read and computed."""

    index: ShardIndex
    image_size: int
    classes: int
    loss: str  # as recipe.loss
    resize: str  # as data.resize
    crop: float
    batch: int  # a whole number of groups under every setting
    window: int  # pictures shuffled together in another order
    max_pixels: int
    tolerance: Tolerance
    workers: int | None
    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]

    def batches(self, orders: int) -> int:
        """How often ``answers`` calls ``advance`` for one setting in each of so many orders."""
        return orders * -(-len(self.index) // self.batch)

    def answers(
        self, model: nn.Module, settings: Sequence[Setting], advance: Callable[[], None] = lambda: None
    ) -> dict[Setting, Answers]:
        """``advance`` is called after each batch under each setting.

        Raises:
            DataError: a bad picture that is not tolerated.
        """
        found: dict[Setting, Answers] = {}
        for order in sorted({setting.order for setting in settings}):
            of_order = [setting for setting in settings if setting.order == order]
            found |= self._in_order(model, of_order, order, advance)
        return found

    def _in_order(
        self, model: nn.Module, settings: Sequence[Setting], order: int, advance: Callable[[], None]
    ) -> dict[Setting, Answers]:
        size = len(self.index)
        predicted = {setting: torch.full((size,), -1) for setting in settings}
        right = {setting: torch.zeros(size, dtype=torch.bool) for setting in settings}
        total, seen = dict.fromkeys(settings, 0.0), 0
        for batch in self._loader(order):
            valid = batch["valid"]
            place, label = batch["index"][valid], batch["label"].to(self.device)
            images, real = batch["image"].to(self.device), valid.to(self.device)
            seen += len(place)
            for setting in settings:
                route_as(model, setting)
                with torch.no_grad(), self.autocast():
                    logits = model(images, valid=real)
                    loss = losses(logits, targets(label, self.classes, self.loss), self.loss)
                predicted[setting][place] = logits.argmax(1).cpu()[valid]
                right[setting][place] = correct(logits, label).cpu()[valid]
                total[setting] += float(loss[real].double().sum())
                advance()
        return {s: Answers(predicted[s], right[s], total[s] / max(1, seen)) for s in settings}

    def _loader(self, order: int) -> BatchLoader:
        pictures = np.arange(len(self.index))
        if order:
            pictures = Plan(self.index.counts, order, self.window).pictures(pictures)
        return eval_loader(
            self.index,
            evaluation_share(pictures, self.batch),
            image_size=self.image_size,
            resize=self.resize,
            crop=self.crop,
            batch=self.batch,
            workers=self.workers,
            max_pixels=self.max_pixels,
            tolerance=self.tolerance,
        )


def route_as(model: nn.Module, setting: Setting) -> None:
    """Sets capacity, groups and choices of every MoE layer of ``model``, for evaluation."""
    for layer in (part for part in model.modules() if isinstance(part, MoE)):
        layer.group_images = setting.group_images
        if isinstance(capacity := getattr(layer.router, "capacity", None), Capacity):
            layer.router.capacity = replace(capacity, eval_factor=setting.capacity)  # type: ignore[assignment]
        if setting.k is not None:
            layer.router.k = setting.k  # type: ignore[assignment]


def has_fixed_slots(model: nn.Module) -> bool:
    """Whether some MoE layer has a router without a capacity that can be set."""
    routers = [part.router for part in model.modules() if isinstance(part, MoE)]
    return any(not isinstance(getattr(router, "capacity", None), Capacity) for router in routers)
