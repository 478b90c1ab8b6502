"""From "auto" to a device, a precision and a way to cut the batch; and the Lightning trainer that these make.

B images a step over all devices; a device sees B / devices of them, in ``accumulation`` pieces of ``device_batch``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from moe_bench.errors import ConfigError
from moe_bench.training.checkpoint import FolderCheckpointIO

BF16_CAPABILITY = (8, 0)  # the first GPUs with bfloat16 matrix units


@dataclass(frozen=True)
class Place:
    """Where a run computes. ``precision`` is Lightning's word for it."""

    accelerator: str  # cpu or gpu
    devices: int  # on each node
    nodes: int
    strategy: str  # auto (one device), ddp or fsdp
    precision: str  # 32-true or bf16-mixed
    name: str  # of the device, for people

    @property
    def world(self) -> int:
        return self.devices * self.nodes


def resolve(
    accelerator: str = "auto", devices: int = 1, nodes: int = 1, strategy: str = "auto", precision: str = "auto"
) -> Place:
    """Settings → where and how to compute on this machine.

    A device for itself has nothing to share: there ``strategy`` is "auto" whatever was asked. On a CPU a device is a
    process.

    Raises:
        ConfigError: a GPU is asked for and there is none; or more GPUs than there are.
    """
    gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not gpu:
        raise ConfigError("runtime.accelerator=gpu, but torch sees no CUDA device here. Use runtime.accelerator=auto.")
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"runtime.accelerator={accelerator}: use auto, cpu or gpu.")
    chosen = "gpu" if gpu and accelerator != "cpu" else "cpu"
    if chosen == "gpu" and devices > torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"runtime.devices={devices}, but torch sees {found} here. Type runtime.devices={found}.")
    name = torch.cuda.get_device_name() if chosen == "gpu" else "CPU"
    shared = "auto" if devices * nodes == 1 else "ddp" if strategy == "auto" else strategy
    return Place(chosen, devices, nodes, shared, _precision(precision, chosen), name)


def _precision(asked: str, accelerator: str) -> str:
    if asked not in ("auto", "32", "bf16"):
        raise ConfigError(f"recipe.precision={asked}: use auto, 32 or bf16.")
    fast = accelerator == "gpu" and torch.cuda.get_device_capability() >= BF16_CAPABILITY
    return "bf16-mixed" if asked == "bf16" or (asked == "auto" and fast) else "32-true"


def accumulation(batch: int, world: int, device_batch: int) -> int:
    """Pieces that each device cuts its share of a step's batch into.

    Raises:
        ConfigError: it does not come out even.
    """
    if batch % world or (batch // world) % device_batch:
        sizes = ", ".join(str(size) for size in divisors(batch // world)[-8:]) if batch % world == 0 else "none"
        raise ConfigError(
            f"recipe.batch={batch} over {world} device(s) in pieces of runtime.device_batch={device_batch} does not "
            f"come out even. Pieces that do: {sizes}."
        )
    return batch // world // device_batch


def divisors(number: int) -> list[int]:
    """Ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def make_trainer(
    place: Place,
    *,
    steps: int,
    accumulation: int = 1,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    log_every: int = 10,
    deterministic: bool = False,
    folder: Path | None = None,
    profiler: Profiler | None = None,
    timeout_s: float = 600.0,
) -> Trainer:
    """A trainer for one long pass of ``steps`` updates, with everything that we do ourselves switched off.

    ``callbacks`` are called in their order, and it matters: what logs figures and shows progress first, then
    ``Validation`` and the probe, then ``Checkpointer``, then ``StopAtBoundary``. ``folder`` is where Lightning would
    put files of its own.
    """
    _quiet()
    settings: dict[str, Any] = {"deterministic": True} if deterministic else {}
    return Trainer(
        accelerator=place.accelerator,
        devices=place.devices,
        num_nodes=place.nodes,
        strategy=_strategy(place, timeout_s),
        precision=place.precision,  # type: ignore[arg-type]
        max_steps=steps,
        max_epochs=-1,  # one "epoch" is the whole run: the data module's loader is as long as that
        accumulate_grad_batches=accumulation,
        callbacks=list(callbacks),
        logger=list(loggers),
        log_every_n_steps=max(1, log_every),
        plugins=[FolderCheckpointIO(), LightningEnvironment()],  # whoever started the ranks, group.py has joined them
        profiler=profiler,
        limit_val_batches=0,  # see validation.py
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        use_distributed_sampler=False,
        default_root_dir=folder,
        **settings,
    )


def _strategy(place: Place, timeout_s: float) -> str | Strategy:
    """How the devices work together; the process group is there already."""
    if place.strategy == "ddp":
        # No buffer is copied from rank to rank: those of routers say where their own rank is.
        known = signature(DistributedDataParallel).parameters
        copying = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        settings: dict[str, Any] = {copying: False, "gradient_as_bucket_view": True}
        return DDPStrategy(timeout=timedelta(seconds=timeout_s), **settings)
    return place.strategy


def _quiet() -> None:
    """Keep Lightning to warnings, and drop those about what is done here in another way."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "You're resuming from a checkpoint that ended before the epoch",  # exact, see the data module
        "You passed in a `val_dataloader` but have no `validation_step`",  # see validation.py
        "does not have many workers",
        "The number of training batches",
        "isinstance\\(treespec, LeafSpec\\)",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
