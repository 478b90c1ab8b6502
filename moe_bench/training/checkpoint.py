"""When a run is saved, and how Lightning's state goes in and out of the checkpoint store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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

    A step is saved before the next one begins and not when it ends, because Lightning writes a step's row of metrics
    after its last callback: what is saved has its rows. The last step is saved before the measurements at the end.

    ``about()`` goes into each manifest: plain JSON that says which run this is and what it has written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int = 0,
        keep: int = 2,
        batch: int,
        about: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, not {keep}")
        self.folder = folder
        self.every = every
        self.keep = keep
        self.batch = batch
        self.about = about
        self.saved = 0  # the step last saved, or begun with: what is there needs no saving

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            store.clean(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        at_boundary = batch_idx % trainer.accumulate_grad_batches == 0
        if at_boundary and self.every and trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)  # the one "epoch" is the whole run

    def save(self, trainer: Trainer) -> None:
        """Save now, unless this step is saved already. Every rank must call it."""
        step = trainer.global_step
        if self.saved == step:
            return
        manifest = {"samples_seen": step * self.batch, "world_size": trainer.world_size, **self.about()}
        trainer.save_checkpoint(store.step_folder(self.folder, step), storage_options=manifest)
        self.saved = step
        if trainer.is_global_zero:
            store.prune(self.folder, step, self.keep)
