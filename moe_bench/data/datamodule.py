"""The pictures of a run for Lightning: endless shuffled training, and validation that counts every picture once.

The training loader is one Lightning "epoch" as long as the whole run. Its state is the step, with the fingerprint of
its pictures and which of them are bad: which pictures a step uses and how each is augmented follow from the seed and
the step (see plan.py), so a resumed run goes on exactly where it was, on any number of ranks, micro-batches and
workers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import Sampler

from moe_bench.data.bad import Account, Tolerance
from moe_bench.data.dataset import Pictures, Request
from moe_bench.data.decode import MAX_PIXELS, Augmentation, training_transform
from moe_bench.data.index import ShardIndex
from moe_bench.data.loader import BatchLoader, eval_loader
from moe_bench.data.plan import Plan, Share, evaluation_share
from moe_bench.errors import ConfigError


class TrainingRequests(Sampler[list[Request]]):
    """The requests of every micro-batch of one rank, from step ``start`` to ``stop``.

    Its length counts from step 0: Lightning restores how many micro-batches are behind it and fetches the rest.
    """

    def __init__(self, plan: Plan, share: Share, start: int, stop: int) -> None:
        self.plan, self.share, self.start, self.stop = plan, share, start, stop

    def __len__(self) -> int:
        return self.stop * self.share.accumulation

    def __iter__(self) -> Iterator[list[Request]]:
        for positions in self.share.steps(self.start, self.stop):
            yield list(zip(self.plan.pictures(positions).tolist(), positions.tolist()))


def _count_from(trainer: Trainer, micro_batches: int) -> None:
    """Sets the number of micro-batches that a resumed trainer believes to be behind it.

    Lightning restores the count of the run that was saved: wrong where this one cuts its steps into other pieces, or
    where that one was saved amid a step. It would then step after a part of the batch, and end early. Before the first
    batch it completes what was saved in on_train_batch_end by one, which is left for it to do. What was saved in
    on_train_batch_start had fetched a batch that is fetched again.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    total, current = progress.total, progress.current
    at_batch_end = total.ready == total.started == total.processed == total.completed + 1
    total.ready = total.started
    current.ready = current.started = current.processed = micro_batches
    current.completed = micro_batches - at_batch_end


class ImageData(LightningDataModule):
    """Training and validation batches of dicts {"image", "label", "valid", "index", "bad"} (see dataset.py).

    Use it with ``Trainer(use_distributed_sampler=False, accumulate_grad_batches=batch // (world · device_batch))``.

    Args:
        train, val: what is learned and what is judged.
        image_size: pixels a side.
        steps: optimiser steps of the whole run; batch: pictures a step over all devices; device_batch: at once on one.
        seed: of the order and the augmentation.
        augmentation: of training pictures.
        resize, crop: of validation pictures, as in ``eval_loader``.
        workers: data processes a device; None: from the CPU count.
        num_classes: None: the larger of what the two indexes say.
        tolerance: of bad pictures.
        timeout_s: how long a data process may take for a batch; 0: as long as it likes.

    ``account`` tells what training was given.

    Raises DataError if a label is out of range for num_classes.
    """

    def __init__(
        self,
        train: ShardIndex,
        val: ShardIndex,
        *,
        image_size: int,
        steps: int,
        batch: int,
        device_batch: int,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        resize: str = "short_side",
        crop: float = 1.0,
        shuffle_window: int = 65536,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        num_classes: int | None = None,
        tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
        timeout_s: float = 0,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.image_size, self.resize, self.crop, self.max_pixels = image_size, resize, crop, max_pixels
        self.steps, self.batch, self.device_batch = steps, batch, device_batch
        self.seed, self.workers, self.tolerance, self.timeout_s = seed, workers, tolerance, timeout_s
        self.augmentation = augmentation or Augmentation()
        self.plan = Plan(train.counts, seed, shuffle_window)
        self.account = Account(train, self.plan)
        self.num_classes = num_classes or max(train.num_classes, val.num_classes)
        train.check_labels(self.num_classes)
        val.check_labels(self.num_classes)
        self._step = 0

    @property
    def train_size(self) -> int:
        """Training pictures in an epoch."""
        return len(self.train)

    @property
    def val_size(self) -> int:
        """Validation pictures."""
        return len(self.val)

    def train_dataloader(self) -> BatchLoader:
        """The micro-batches of this rank from the current step to the last."""
        rank, world = self._place()
        share = Share(self.batch, self.device_batch, rank, world)
        if self.trainer:
            _count_from(self.trainer, self._step * share.accumulation)
        transform = training_transform(self.image_size, self.augmentation)
        pictures = Pictures(self.train, transform, self.image_size, self.seed, self.max_pixels, self.tolerance)
        requests = TrainingRequests(self.plan, share, self._step, self.steps)
        return BatchLoader(pictures, requests, self.workers, self.account.add, self.timeout_s)

    def val_dataloader(self) -> BatchLoader:
        """This rank's part of the validation pictures; every rank has the same number of full batches."""
        rank, world = self._place()
        mine = evaluation_share(np.arange(len(self.val)), self.device_batch, rank, world)
        return eval_loader(
            self.val,
            mine,
            image_size=self.image_size,
            resize=self.resize,
            crop=self.crop,
            batch=self.device_batch,
            workers=self.workers,
            max_pixels=self.max_pixels,
            tolerance=self.tolerance,
            timeout_s=self.timeout_s,
        )

    def state_dict(self) -> dict[str, Any]:
        step = int(self.trainer.global_step) if self.trainer else self._step
        return {"step": step, "pictures": self.train.fingerprint, "bad": self.account.rows()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after a step. Raises ConfigError if the pictures are not those that were learned from until then."""
        self._step = int(state_dict["step"])
        self.account.add(state_dict.get("bad", []))
        then, now = state_dict.get("pictures", self.train.fingerprint), self.train.fingerprint
        if then != now:
            raise ConfigError(
                f"the {len(self.train):,} training pictures are not those of the checkpoint of step {self._step:,}: "
                f"names, sizes or labels differ (fingerprint {then[:8]} there, {now[:8]} now). Bring the earlier "
                "shards back, or start over with force=true, which puts that run aside"
            )
        # Lightning cannot know that the order follows from the step
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def _place(self) -> tuple[int, int]:
        """(rank, number of ranks); one of one without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
