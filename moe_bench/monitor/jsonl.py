"""metrics.jsonl: the record that everything else is built from.

One object a line: ``step`` (optimiser steps done), ``samples_seen`` (training pictures, all devices), ``time`` (seconds
since 1970), then the figures by name. nan and infinities are written as null under their name: JSON has no word for
them, and a name with null says that the figure was measured and was not a number. Each line is appended whole and
flushed at once; only rank 0 writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from moe_bench.monitor.rows import encode


class JsonlLogger(Logger):
    """Appends to ``path``. ``batch`` is the number of pictures a step over all devices."""

    def __init__(self, path: Path, batch: int) -> None:
        super().__init__()
        self._path = path
        self._batch = batch
        self._file: TextIO | None = None

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return self._path.parent.name

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        if step is None:
            raise ValueError(f"a row of {self._path.name} needs a step; it has {sorted(metrics)}")
        row = {"step": step, "samples_seen": step * self._batch, "time": round(time.time(), 3), **metrics}
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(encode(row))
        self._file.flush()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """run.json has them."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
