"""Faults on purpose, for tests of what a run makes of them. ``MOE_BENCH_FAULT=event:rank:step``; nothing if not set."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.errors import DataError

VARIABLE = "MOE_BENCH_FAULT"


class Fault(Callback):
    """Does ``event`` on one rank when step ``step`` (0, 1, ...) begins: kill, stuck, term, int, nan or data."""

    def __init__(self, event: str, rank: int, step: int) -> None:
        self.event, self.rank, self.step = event, rank, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, trainer.global_step) != (self.rank, self.step):
            return
        if self.event == "nan":
            batch["image"].fill_(torch.nan)
        elif self.event == "data":
            raise DataError("a broken picture, on purpose")
        elif self.event == "stuck":
            time.sleep(3600)
        else:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[self.event])


def fault() -> list[Callback]:
    """The fault that the environment asks for."""
    if not (asked := os.environ.get(VARIABLE)):
        return []
    event, rank, step = asked.split(":")
    return [Fault(event, int(rank), int(step))]
