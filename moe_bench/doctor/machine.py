"""Memory, and the folders that a run writes: whether it may, and how much room there is."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from moe_bench.config import Config
from moe_bench.doctor.finding import NOTE, OFF, OK, Finding, in_time
from moe_bench.monitor.units import size

GB = 1e9
LITTLE_MEMORY = 2 * GB  # torch, pictures and a small model take about one
LITTLE_ROOM = 5 * GB  # two checkpoints of a B/16 with its experts
NO_ROOM = 0.2 * GB


def memory() -> Finding:
    from moe_bench.training.memory import free_bytes

    free = free_bytes("cpu")
    found = f"{size(free)} free, {os.cpu_count()} cores"
    if free < LITTLE_MEMORY:
        return Finding(NOTE, "memory", found, f"below {size(LITTLE_MEMORY)}: end other programs, or a small model")
    return Finding(OK, "memory", found)


def folders(configs: list[Config]) -> list[Finding]:
    """Each folder that the runs write: for results, and for indexes and fetched shards."""
    results = {(Path(config.runs_dir), "runs_dir=DIR") for config in configs}
    caches = {
        (Path(config.data.cache_dir or os.environ.get("MOE_BENCH_CACHE") or "~/.cache/moe-bench"), "data.cache_dir=DIR")
        for config in configs
    }
    named = [*(("runs", *one) for one in sorted(results)), *(("cache", *one) for one in sorted(caches))]
    return [in_time(what, partial(_folder, what, folder.expanduser(), setting)) for what, folder, setting in named]


def _folder(what: str, folder: Path, setting: str) -> Finding:
    """Writes a file of no name into it, or into the nearest folder above that is there; nothing stays."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"moe-bench")
        free = shutil.disk_usage(there).free
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(OFF, what, f"{folder} cannot be written: {reason}", f"mend {there}, or type {setting}")
    made = "" if there == folder.absolute() else " (made when needed)"
    found = f"{folder} can be written{made}, {size(free)} free"
    if free < LITTLE_ROOM:
        return Finding(OFF if free < NO_ROOM else NOTE, what, found, f"free some space, or type {setting}")
    return Finding(OK, what, found)
