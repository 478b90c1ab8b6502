"""When a run is saved, and how Lightning's state goes in and out of the checkpoint store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.training import store
from moe_bench.training.store import Saved, check_fits, latest, load_weights

__all__ = ["Checkpointer", "FolderCheckpointIO", "Saved", "check_fits", "latest", "load_weights"]


class FolderCheckpointIO(CheckpointIO):
    """Lightning's door to the store: a path is a step folder; loading is always ``weights_only``."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """``storage_options`` is the manifest to write beside the state."""
        store.write(checkpoint, Path(path), {"step": checkpoint["global_step"], **(storage_options or {})})

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """On the CPU; Lightning moves it. ``weights_only`` is not a choice here."""
        return store.load(path)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        store.discard(Path(path))


class Checkpointer(Callback):
    """Saves every ``every`` steps (0: not) and after the last one, and keeps the newest ``keep``.

    ``about`` goes into each manifest: plain JSON that says which run this is. Place it after callbacks that write
    metrics, so that no row of a saved step is missing, and before ``StopAtBoundary``.
    """

    def __init__(
        self, folder: Path, *, every: int = 0, keep: int = 2, batch: int, about: Mapping[str, Any] | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, not {keep}")
        self.folder = folder
        self.every = every
        self.keep = keep
        self.batch = batch
        self.about = dict(about or {})
        self.saved: int | None = None  # the step last saved

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            store.clean(self.folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step == trainer.max_steps or (self.every and step % self.every == 0):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now, unless this step is saved already. Every rank must call it."""
        step = trainer.global_step
        if self.saved == step:
            return
        manifest = {"samples_seen": step * self.batch, "world_size": trainer.world_size, **self.about}
        trainer.save_checkpoint(store.step_folder(self.folder, step), storage_options=manifest)
        self.saved = step
        if trainer.is_global_zero:
            store.prune(self.folder, step, self.keep)
