"""What lies ahead of a sweep: its runs one by one, how long they may take, what they leave on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_bench.config.schema import Config
from moe_bench.launch import pace
from moe_bench.launch.cells import Cell
from moe_bench.launch.evidence import finished_like, kind_of
from moe_bench.launch.share import shares
from moe_bench.monitor.atomic import free_space
from moe_bench.monitor.units import about, size

FLOAT32 = 4  # bytes


def outlook(cells: Sequence[Cell], jobs: int | None, elsewhere: bool = False) -> str:
    """How much there is to do, a line each for runs, time and disk. ``elsewhere``: other machines will do it."""
    left = [cell for cell in cells if not cell.finished]
    begun = sum(cell.steps_done > 0 for cell in left)
    parts = [f"{len(cells) - len(left)} finished", f"{begun} begun", f"{len(left) - begun} new"]
    at_once = f"; {jobs} at once" if jobs and jobs > 1 else ""
    lines = [f"{_runs(len(cells))}: {', '.join(parts)}{at_once}"]
    if left:
        lines += [f"time: {_time(left, min(jobs or len(left), len(left)), elsewhere)}", f"disk: {_disk(left)}"]
    return "\n".join(lines)


def _runs(number: int) -> str:
    return f"{number:,} {'run' if number == 1 else 'runs'}"


def listing(cells: Sequence[Cell]) -> str:
    """A line for each run: what it is, how far it is, where its folder is."""
    width = max(len(cell.label) for cell in cells)
    return "\n".join(f"{c.number:>6,}  {c.label.ljust(width)}  {_state(c):<12}  {c.folder}" for c in cells)


def _state(cell: Cell) -> str:
    if cell.finished:
        return "finished"
    return f"step {cell.steps_done:,}" if cell.steps_done else "new"


def _time(left: Sequence[Cell], jobs: int, elsewhere: bool) -> str:
    """From finished runs whose steps are the same work, and of other kinds by measuring."""
    like = finished_like([(cell.config, cell.folder) for cell in left])
    known = {cell.number: found.step_s for cell, found in zip(left, like, strict=True) if found}
    devices = ", ".join(sorted({found.device for found in like if found}))
    sources = [f"{_runs(len(known))} by finished runs like these on {devices}"] if known else []
    unknown = [cell for cell in left if cell.number not in known]
    if unknown and not elsewhere and len(left) <= pace.MOST_RUNS:
        timed, told = _timed(unknown, shares(jobs, [cell.config for cell in left])[0])
        known, sources = known | timed, sources + told
    if not known:
        return f"unknown, since no run like these is finished and {_why_not(len(left), elsewhere)}"
    steps = {cell.number: cell.config.recipe.steps - cell.steps_done for cell in left}
    total = sum(step_s * steps[number] for number, step_s in known.items())
    words = f"{about(total)} of training ({', '.join(sources)})"
    if jobs > 1:
        words += f"; {about(total / min(jobs, len(known)))} if as many at once do not slow each other"
    missing = len(left) - len(known)
    return words + (f"; not counted: {_runs(missing)} unlike any that is finished" if missing else "")


def _why_not(runs: int, elsewhere: bool) -> str:
    if elsewhere:
        return "this machine is not the one that trains; there, moe-bench estimate --measure SETTINGS tells"
    if runs > pace.MOST_RUNS:
        return f"more than {pace.MOST_RUNS:,} runs are not timed; moe-bench estimate --measure SETTINGS times one"
    return f"{pace.BUDGET_S:.0f} s were too short to measure any; moe-bench estimate --measure SETTINGS takes its time"


def _timed(cells: Sequence[Cell], share: Mapping[str, str]) -> tuple[dict[int, float], list[str]]:
    """Seconds a step of each cell, without reading pictures and without the update, and in words how they are known."""
    kind = {cell.number: kind_of(cell.config) for cell in cells}
    kinds: dict[str, Config] = {}
    for cell in cells:
        kinds.setdefault(kind[cell.number], cell.config)
    seconds, measured = pace.image_seconds(list(kinds.values()), share)
    if seconds is None:
        return {}, []
    by_kind = dict(zip(kinds, seconds, strict=True))
    told = f"{_runs(len(cells))} by timing a few pieces of a step now"
    told += f" for {measured} of {len(kinds)} kinds, the others by their FLOPs" if measured < len(kinds) else ""
    return {cell.number: by_kind[kind[cell.number]] * _images(cell.config) for cell in cells}, [told]


def _images(cfg: Config) -> float:
    """That one device has in a step."""
    return cfg.recipe.batch / (cfg.runtime.devices * cfg.runtime.nodes)


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
