"""Which pictures a run was given, told to the picture: each epoch of training, and each picture that is bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.data.bad import CAUSES
from moe_bench.data.datamodule import ImageData
from moe_bench.data.index import ShardIndex
from moe_bench.errors import DataError
from moe_bench.training.group import all_rows

NAMED = 5
"""Bad pictures of training that are named as they are met; the rest are counted."""


class Accounting(Callback):
    """Logs ``Account.figures`` where an epoch of pictures ends, where a bad one is met first, and after the last step.

    A row with bad pictures that are new says how many are in which shard: data/bad/<shard>/<cause>. Stands before the
    callbacks that save, so that what is bad is saved with the step that met it.

    Raises:
        DataError: more pictures are bad than ``data.tolerance`` allows; on every rank at the same step.
    """

    def __init__(self, data: ImageData, say: Callable[[str], None]) -> None:
        self.data, self.account, self.say = data, data.account, say
        self._named = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self.data.tolerance.skip:
            self.account.add(of_all_ranks(self.account.rows()))
        places = trainer.global_step * self.data.batch
        before = places - self.data.batch
        news = self.account.news(before, places)
        epoch_ends = places // self.data.train_size > before // self.data.train_size
        if news or epoch_ends or trainer.global_step == trainer.max_steps:
            self._name(news)
            row = {**self.account.figures(places), **self.account.by_shard(news)}
            for logger in trainer.loggers:  # not by way of Lightning, whose float32 cannot count beyond 16 million
                logger.log_metrics(row, step=trainer.global_step)
        if news:
            self._check(self.data.train, self.account.news(0, places))

    def judge(self, rows: list[list[int]]) -> None:
        """The rows of "bad" of a whole validation."""
        if rows:
            val, first = self.data.val, min(rows)
            self._check(val, [picture for picture, *_ in rows])
            self.say(
                f"{len(rows):,} of {len(val):,} validation pictures cannot be decoded and count as wrong answers; the "
                f"first is {val.name(first[0])} ({_words(first[1])})"
            )

    def summary(self, steps: int) -> dict[str, float]:
        """The rows of summary.json after so many steps."""
        places = steps * self.data.batch
        return {**self.account.figures(places), **self.account.by_shard(self.account.news(0, places))}

    def _name(self, pictures: list[int]) -> None:
        for picture in pictures[: NAMED - self._named]:
            cause, substitute = self.account.bad[picture]
            name, other = self.data.train.name(picture), self.data.train.key(substitute)
            self.say(f"skipped {name} ({_words(cause)}); {other} takes its place in every epoch")
        if self._named < NAMED <= self._named + len(pictures):
            self.say("further bad pictures are counted and not named; `moe-bench shards verify` names all")
        self._named += len(pictures)

    def _check(self, index: ShardIndex, bad: list[int]) -> None:
        try:
            self.data.tolerance.check(index, bad)
        except DataError as error:
            error.everywhere = True
            raise


def of_all_ranks(rows: list[list[int]]) -> list[list[int]]:
    """The rows of "bad" of every rank."""
    gathered: list[list[int]] = all_rows(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)).tolist()
    return gathered


def _words(cause: int) -> str:
    return CAUSES[cause].replace("_", " ")
