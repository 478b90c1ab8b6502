"""When a run is saved, and how Lightning's state goes in and out of the checkpoint store.

Training waits for a copy of the state in host memory, and a thread writes it; where the copy does not fit, training
waits for the writing. At most one checkpoint is being written at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.monitor import units
from moe_bench.training import store
from moe_bench.training.background import Background, copied, has_room_for
from moe_bench.training.durable import bytes_of
from moe_bench.training.store import Saved, check_fits, latest, load_weights

MISSES = 3
"""So many checkpoints in a row that cannot be written end a run; before, the next one may find room again."""

log = logging.getLogger(__name__)

__all__ = ["Checkpointer", "FolderCheckpointIO", "Saved", "check_fits", "latest", "load_weights"]


class FolderCheckpointIO(CheckpointIO):
    """Lightning's door to the store: a path is a step folder; loading is always ``weights_only``."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """``storage_options`` is what writes it: a function of the state and the folder."""
        assert storage_options is not None, "only a Checkpointer saves"
        storage_options(checkpoint, Path(path))

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

    A checkpoint on the way that cannot be written is told, and training goes on; ``MISSES`` of them in a row, or one at
    the end, raise CheckpointError. ``about()`` goes into each manifest: plain JSON that says which run this is and what
    it has written.
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
        self._writing = Background()
        self._copy: Any = None  # of the state last saved; its memory is kept for the next
        self._missed = 0
        self._in_doubt = False  # a checkpoint was begun, and nobody has looked yet what became of it
        self._told = False  # that there is no room for a copy

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            store.clean(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if not self._writing.busy:
            self._look()
        if self.every and trainer.global_step % self.every == 0:
            self.save(trainer, wait=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)  # the one "epoch" is the whole run
        self._copy = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._writing.wait()

    def save(self, trainer: Trainer, wait: bool = True) -> None:
        """Save now, unless this step is saved already. Every rank must call it.

        Raises:
            CheckpointError: with ``wait``, if it could not be written; else see ``MISSES``.
        """
        step = trainer.global_step
        if self.saved != step:
            self._look()
            manifest = {"step": step, "samples_seen": step * self.batch, "world_size": trainer.world_size}
            write = partial(self._write, {**manifest, **self.about()})
            trainer.save_checkpoint(store.step_folder(self.folder, step), storage_options=write)
            self.saved = step
        if wait:
            self._writing.wait()
            if self._writing.error is not None:
                raise self._writing.error

    def _write(self, manifest: Mapping[str, Any], state: dict[str, Any], folder: Path) -> None:
        self._in_doubt = True
        if self._copy is not None or has_room_for(state):
            self._copy = copied(state, into=self._copy)
            self._writing.start(partial(self._store, manifest, self._copy, folder))
            return
        if not self._told:
            log.warning("a copy of %s does not fit: training waits while it is saved", units.size(bytes_of(state)))
            self._told = True
        self._writing.do(partial(self._store, manifest, state, folder))

    def _store(self, manifest: Mapping[str, Any], state: dict[str, Any], folder: Path) -> None:
        store.write(state, folder, manifest)
        store.prune(self.folder, manifest["step"], self.keep)

    def _look(self) -> None:
        """What became of the checkpoint before; waits for it."""
        self._writing.wait()
        if not self._in_doubt:
            return
        self._in_doubt = False
        error = self._writing.error
        self._missed = 0 if error is None else self._missed + 1
        if error is not None:
            if self._missed == MISSES:
                raise error
            log.warning("%s Training goes on; it ends if %d in a row cannot be written.", error, MISSES)
