"""Batches of pictures from data processes, with faults told in plain words."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from moe_bench.cores import cores
from moe_bench.data.bad import Tolerance
from moe_bench.data.dataset import Batch, Pictures, Request
from moe_bench.data.decode import MAX_PIXELS, evaluation_transform, squeeze_transform
from moe_bench.data.index import ShardIndex
from moe_bench.errors import MoeBenchError, WorkerLostError
from moe_bench.guard import naming_lost_workers, worker_died

MAX_WORKERS = 8


def default_workers(devices: int = 1) -> int:
    """Data processes for each device of this machine: the cores shared out, one left to train."""
    return max(0, min(MAX_WORKERS, cores() // devices - 1))


class BatchLoader(DataLoader[Batch]):
    """A DataLoader over Pictures that raises a worker's error as it was, and names a worker's death.

    ``pictures`` may be any data set that takes requests and gives back what prevented it as a MoeBenchError.
    ``on_bad`` is called in this process with the rows of "bad" of each batch that has any (see dataset.py). A data
    process that takes longer than ``timeout_s`` for its next batch is taken for stuck; 0: it is waited for.
    """

    def __init__(
        self,
        pictures: Dataset[Any],
        requests: Sampler[list[Request]],
        workers: int | None,
        on_bad: Callable[[list[list[int]]], None] | None = None,
        timeout_s: float = 0,
    ) -> None:
        workers = default_workers() if workers is None else workers
        super().__init__(
            pictures,
            batch_size=None,  # the sampler gives whole batches
            sampler=requests,
            num_workers=workers,
            timeout=timeout_s if workers else 0,  # this process cannot watch over itself
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each start of the loader draws from the run's random numbers
            worker_init_fn=_outlive_one_sigterm,
        )
        self._on_bad = on_bad

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches: Any = super().__iter__()
        try:
            with naming_lost_workers():
                for batch in batches:
                    if isinstance(batch, MoeBenchError):
                        raise batch
                    if self._on_bad is not None and len(batch["bad"]):
                        self._on_bad(batch["bad"].tolist())
                    yield batch
        except (ConnectionError, EOFError) as error:  # a batch that its process took along
            if not (pids := _dead(batches)):
                raise
            batches._shutdown_workers()  # or torch tells of the same death at any later moment
            raise worker_died(pids) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            raise WorkerLostError(_stuck(batches, self.timeout)) from error


def _dead(batches: Any) -> str:
    """Data processes that have ended, within a moment: one that is killed closes all its files first."""
    processes = getattr(batches, "_workers", [])
    until = time.monotonic() + 1
    while not (dead := [process for process in processes if not process.is_alive()]) and time.monotonic() < until:
        time.sleep(0.01)
    return ", ".join(str(process.pid) for process in dead)


def _stuck(batches: Any, waited_s: float) -> str:
    """What is told of the data process whose turn it is; all are killed that do not hear that they are to end."""
    process = batches._workers[batches._task_info[batches._rcvd_idx][0]]
    batches._shutdown_workers()
    for one in batches._workers:
        one.kill()
        one.join(1)
    return (
        f"a data process is stuck (pid {process.pid}): no batch came from it in {waited_s:g} s (runtime.timeout_s), "
        "most often because a disk or a server does not answer. The same command again goes on from the last checkpoint"
    )


def _outlive_one_sigterm(_worker: int) -> None:
    """Let a data process go on after its first SIGTERM, where torch's own handler ends it.

    SLURM and containers send one to every process of a run, which needs its data processes for the step that it ends
    and then stops them itself. The second ends one that is stuck: it is what torch and Python send.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    signal.signal(signal.SIGTERM, handle)


def _as_is(batch: Any) -> Any:
    return batch


class InOrder(Sampler[list[Request]]):
    """Requests for pictures one after another; a batch is filled up with -1 to a multiple of ``pad_to``."""

    def __init__(self, pictures: NDArray[np.int64], batch: int, pad_to: int) -> None:
        self.pictures, self.batch, self.pad_to = pictures, batch, pad_to

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.batch)

    def __iter__(self) -> Iterator[list[Request]]:
        for start in range(0, len(self.pictures), self.batch):
            chosen = self.pictures[start : start + self.batch].tolist()
            chosen += [-1] * (-len(chosen) % self.pad_to)
            yield [(picture, 0) for picture in chosen]


def eval_loader(
    index: ShardIndex,
    positions: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    image_size: int,
    crop: float = 1.0,
    resize: str = "short_side",
    batch: int = 256,
    workers: int | None = None,
    pad_to: int | None = None,
    max_pixels: int = MAX_PIXELS,
    tolerance: Tolerance | None = None,
    timeout_s: float = 0,
) -> BatchLoader:
    """Batches of the pictures with the given numbers, in that order, without augmentation.

    Args:
        positions: numbers of pictures, -1 for padding; None: all of the index.
        crop: share of the resized side that the centre crop keeps.
        resize: by the "short_side", or to a "square" whatever the shape.
        workers: data processes; None: from the CPU count; 0: this process.
        pad_to: the last batch is filled up to a multiple of this with valid=False; None: to a full batch.
        tolerance: of bad pictures, whose places have valid=False; None: the first one is an error.
        timeout_s: how long a data process may take for a batch; 0: as long as it likes.
    """
    chosen = np.arange(len(index)) if positions is None else np.asarray(positions, dtype=np.int64)
    transform = squeeze_transform if resize == "square" else evaluation_transform
    pictures = Pictures(index, transform(image_size, crop), image_size, max_pixels=max_pixels, tolerance=tolerance)
    return BatchLoader(pictures, InOrder(chosen, batch, pad_to or batch), workers, timeout_s=timeout_s)
