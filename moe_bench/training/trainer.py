"""The Lightning trainer of a run, with everything that we do ourselves switched off."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import Profiler

from moe_bench.training.checkpoint import FolderCheckpointIO
from moe_bench.training.parallel import strategy
from moe_bench.training.place import Place


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
        strategy=strategy(place, timeout_s),
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


def _quiet() -> None:
    """Keep Lightning to warnings, and drop those about what is done here in another way."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "You're resuming from a checkpoint that ended before the epoch",  # exact, see the data module
        "You passed in a `val_dataloader` but have no `validation_step`",  # see validation.py
        "does not have many workers",
        "FSDP2-wrapped module .* returned a view",  # nothing here writes into what a unit returns
        "torch.distributed.nn.functional.all_gather is deprecated",  # in Lightning
        "The `srun` command is available",  # ranks are started as the user says, see ranks.py
        "The number of training batches",
        "isinstance\\(treespec, LeafSpec\\)",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
