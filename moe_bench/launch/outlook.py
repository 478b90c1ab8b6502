"""What lies ahead of a sweep: its runs one by one, how long they may take, what they leave on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from moe_bench.config.identity import data_name
from moe_bench.launch.cells import Cell
from moe_bench.model.cost import cost
from moe_bench.monitor.atomic import free_space, read_json
from moe_bench.monitor.units import about, size

FLOAT32 = 4  # bytes
UNKNOWN_CLASSES = 1000
"""Of data whose number of classes is not among the settings: the head is a small part of a checkpoint."""


def outlook(cells: Sequence[Cell], jobs: int | None) -> str:
    """How much there is to do, a line each for runs, time and disk."""
    left = [cell for cell in cells if not cell.finished]
    begun = sum(cell.steps_done > 0 for cell in left)
    parts = [f"{len(cells) - len(left)} finished", f"{begun} begun", f"{len(left) - begun} new"]
    at_once = f"; {jobs} at once" if jobs and jobs > 1 else ""
    lines = [f"{len(cells):,} {'run' if len(cells) == 1 else 'runs'}: {', '.join(parts)}{at_once}"]
    if left:
        lines += [f"time: {_time(left, jobs or len(left))}", f"disk: {_disk(left)}"]
    return "\n".join(lines)


def listing(cells: Sequence[Cell]) -> str:
    """A line for each run: what it is, how far it is, where its folder is."""
    width = max(len(cell.label) for cell in cells)
    return "\n".join(f"{c.number:>6,}  {c.label.ljust(width)}  {_state(c):<12}  {c.folder}" for c in cells)


def _state(cell: Cell) -> str:
    if cell.finished:
        return "finished"
    return f"step {cell.steps_done:,}" if cell.steps_done else "new"


def _time(left: Sequence[Cell], jobs: int) -> str:
    """From the speed of finished runs of the same router, model, capacity, data and batch, if there are any."""
    speeds = step_seconds({cell.folder.parent for cell in left})
    known = [
        speed * (cell.config.recipe.steps - cell.steps_done)
        for cell in left
        if (speed := speeds.get(_kind(cell))) is not None
    ]
    if not known:
        return "unknown, since no run like these is finished"
    told = f"about {about(sum(known))} of training, by finished runs like these"
    if jobs > 1:
        told += f"; {about(sum(known) / min(jobs, len(known)))} if as many at once do not slow each other"
    unknown = len(left) - len(known)
    return told + (f"; not counted: {unknown:,} runs unlike any that is finished" if unknown else "")


def step_seconds(roots: Iterable[Path]) -> dict[tuple[Any, ...], float]:
    """Kind of run → median seconds a step over the finished runs of that kind in the folders ``roots``."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for root in roots:
        for entry in os.scandir(root) if root.is_dir() else ():
            said = read_json(Path(entry.path) / "summary.json") or {}
            steps, seconds, samples = (said.get(key) for key in ("steps", "time/train_s", "samples_seen"))
            if steps and seconds and samples:
                kind = (*(said.get(key) for key in ("router", "model", "capacity", "data")), samples // steps)
                found.setdefault(kind, []).append(seconds / steps)
    return {kind: median(values) for kind, values in found.items()}


def _kind(cell: Cell) -> tuple[Any, ...]:
    cfg = cell.config
    return (cfg.router.name, cfg.model.name, cfg.capacity.factor, data_name(cfg.data), cfg.recipe.batch)


def _disk(left: Sequence[Cell]) -> str:
    roots = {_existing(cell.folder.parent) for cell in left}
    free = [found for root in roots if (found := free_space(root)) is not None]
    told = f"about {size(sum(map(checkpoint_bytes, left)))} of checkpoints"
    return told + (f"; {size(min(free))} are free" if free else "")


def checkpoint_bytes(cell: Cell) -> int:
    """Of all checkpoints that a run keeps: weights and the optimiser's moments in float32."""
    cfg = cell.config
    params = cost(cfg.model, cfg.router, cfg.capacity, cfg.data.num_classes or UNKNOWN_CLASSES).params_total
    moments = 2 if cfg.recipe.optimizer == "adamw" else 1
    every = cfg.recipe.checkpoint_every
    kept = min(cfg.runtime.keep_checkpoints, -(-cfg.recipe.steps // every)) if every else 1
    return params * FLOAT32 * (1 + moments) * kept


def _existing(folder: Path) -> Path:
    """The nearest folder that is there already."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())
