"""What lies ahead of a sweep: its runs one by one, how long they may take, what they leave on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from moe_bench.config.identity import data_name
from moe_bench.config.schema import Config
from moe_bench.launch import pace
from moe_bench.launch.cells import Cell
from moe_bench.monitor.atomic import free_space, read_json
from moe_bench.monitor.units import about, size

FLOAT32 = 4  # bytes


def outlook(cells: Sequence[Cell], jobs: int | None, elsewhere: bool = False) -> str:
    """How much there is to do, a line each for runs, time and disk. ``elsewhere``: other machines will do it."""
    left = [cell for cell in cells if not cell.finished]
    begun = sum(cell.steps_done > 0 for cell in left)
    parts = [f"{len(cells) - len(left)} finished", f"{begun} begun", f"{len(left) - begun} new"]
    at_once = f"; {jobs} at once" if jobs and jobs > 1 else ""
    lines = [f"{len(cells):,} {'run' if len(cells) == 1 else 'runs'}: {', '.join(parts)}{at_once}"]
    if left:
        lines += [f"time: {_time(left, jobs or len(left), elsewhere)}", f"disk: {_disk(left)}"]
    return "\n".join(lines)


def listing(cells: Sequence[Cell]) -> str:
    """A line for each run: what it is, how far it is, where its folder is."""
    width = max(len(cell.label) for cell in cells)
    return "\n".join(f"{c.number:>6,}  {c.label.ljust(width)}  {_state(c):<12}  {c.folder}" for c in cells)


def _state(cell: Cell) -> str:
    if cell.finished:
        return "finished"
    return f"step {cell.steps_done:,}" if cell.steps_done else "new"


def _time(left: Sequence[Cell], jobs: int, elsewhere: bool) -> str:
    """From finished runs of the same router, model, capacity, data and batch, and of other kinds by measuring."""
    speeds = step_seconds({cell.folder.parent for cell in left})
    known = {cell.number: speeds[kind_of(cell.config)] for cell in left if kind_of(cell.config) in speeds}
    sources = [f"{len(known):,} by finished runs like these"] if known else []
    unknown = [cell for cell in left if cell.number not in known]
    if unknown and not elsewhere and len(left) <= pace.MOST_RUNS:
        timed, told = _timed(unknown)
        known, sources = known | timed, sources + told
    if not known:
        return f"unknown, since no run like these is finished and {_why_not(len(left), elsewhere)}"
    steps = {cell.number: cell.config.recipe.steps - cell.steps_done for cell in left}
    total = sum(step_s * steps[number] for number, step_s in known.items())
    words = f"about {about(total)} of training ({', '.join(sources)})"
    if jobs > 1:
        words += f"; {about(total / min(jobs, len(known)))} if as many at once do not slow each other"
    missing = len(left) - len(known)
    return words + (f"; not counted: {missing:,} runs unlike any that is finished" if missing else "")


def _why_not(runs: int, elsewhere: bool) -> str:
    if elsewhere:
        return "this machine is not the one that trains; there, moe-bench estimate --measure SETTINGS tells"
    if runs > pace.MOST_RUNS:
        return f"more than {pace.MOST_RUNS:,} runs are not timed; moe-bench estimate --measure SETTINGS times one"
    return f"{pace.BUDGET_S:.0f} s were too short to measure any; moe-bench estimate --measure SETTINGS takes its time"


def _timed(cells: Sequence[Cell]) -> tuple[dict[int, float], list[str]]:
    """Seconds a step of each cell, without reading pictures and without the update, and in words how they are known."""
    kinds: dict[tuple[Any, ...], Config] = {}
    for cell in cells:
        kinds.setdefault(kind_of(cell.config), cell.config)
    seconds, measured = pace.image_seconds(list(kinds.values()))
    if seconds is None:
        return {}, []
    by_kind = dict(zip(kinds, seconds, strict=True))
    told = f"{len(cells):,} by pieces of {measured} of their {len(kinds)} kinds timed now"
    told += ", the others by their FLOPs" if measured < len(kinds) else ""
    return {cell.number: by_kind[kind_of(cell.config)] * _images(cell.config) for cell in cells}, [told]


def _images(cfg: Config) -> float:
    """That one device has in a step."""
    return cfg.recipe.batch / (cfg.runtime.devices * cfg.runtime.nodes)


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


def kind_of(cfg: Config) -> tuple[Any, ...]:
    """What finished runs are compared by."""
    return (cfg.router.name, cfg.model.name, cfg.capacity.factor, data_name(cfg.data), cfg.recipe.batch)


def _disk(left: Sequence[Cell]) -> str:
    roots = {_existing(cell.folder.parent) for cell in left}
    free = [found for root in roots if (found := free_space(root)) is not None]
    told = f"about {size(sum(checkpoint_bytes(cell.config) for cell in left))} of checkpoints"
    return told + (f"; {size(min(free))} are free" if free else "")


def checkpoint_bytes(cfg: Config) -> int:
    """Of all checkpoints that a run keeps: weights and the optimiser's moments in float32."""
    params = pace.price(cfg).params_total
    moments = 2 if cfg.recipe.optimizer == "adamw" else 1
    every = cfg.recipe.checkpoint_every
    kept = min(cfg.runtime.keep_checkpoints, -(-cfg.recipe.steps // every)) if every else 1
    return params * FLOAT32 * (1 + moments) * kept


def _existing(folder: Path) -> Path:
    """The nearest folder that is there already."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())
