"""How fast finished runs trained whose steps are the same work: what tells the time of a run without measuring."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from moe_bench.config.identity import numbers, science
from moe_bench.config.schema import Config
from moe_bench.monitor.atomic import read_json

LEAST_STEPS = 100
"""Of a run that counts: the first steps load kernels and start data processes, and take several times as long."""

UNTIMED_GROUPS = ("seed", "probe", "init")
UNTIMED = {
    "router": ("noise", "scale", "importance", "load", "gshard", "z_loss", "bias_rate", "solver_lr"),
    "model": ("identical_experts",),
    "capacity": ("eval_factor",),
    "data": ("label_key", "resize", "crop"),
    "recipe": (
        *("steps", "lr", "betas", "momentum", "weight_decay", "decay", "head_decay", "skip", "spike"),
        *("schedule", "warmup", "end_lr", "timescale", "cooldown", "randaugment_magnitude"),
    ),
}
"""What decides a result and hardly changes the time of a step. Any other setting does, or may."""

_IGNORED = frozenset(f"{group}.{name}" for group, names in UNTIMED.items() for name in names)


@dataclass(frozen=True)
class Evidence:
    """Of finished runs on one kind of device."""

    step_s: float  # median over the runs
    device: str


def finished_like(runs: Sequence[tuple[Config, Path]]) -> list[Evidence | None]:
    """For each run, given with its folder, the pace of finished ones beside it whose steps are the same work."""
    found = _finished({folder.parent for _, folder in runs}, {_label(folder.name) for _, folder in runs})
    if not found:
        return [None] * len(runs)
    return [_evidence(found.get(kind_of(cfg), {}), cfg.runtime.accelerator) for cfg, _ in runs]


def kind_of(cfg: Config) -> str:
    """What makes the steps of two runs the same work, as text that can be compared."""
    return _kind(science(cfg), cfg.runtime.devices * cfg.runtime.nodes)


def _kind(settings: Mapping[str, Any], devices: int) -> str:
    timed = {
        key: value
        for key, value in settings.items()
        if key not in _IGNORED and key.partition(".")[0] not in UNTIMED_GROUPS
    }
    return json.dumps([numbers(timed), devices], sort_keys=True)


def _evidence(by_device: Mapping[str, list[float]], accelerator: str) -> Evidence | None:
    """Of the device that most runs were on, among those that ``accelerator`` may stand for."""
    fits = {d: s for d, s in by_device.items() if accelerator == "auto" or (d == "CPU") == (accelerator == "cpu")}
    if not fits:
        return None
    device = max(fits, key=lambda name: len(fits[name]))
    return Evidence(median(fits[device]), device)


def _finished(roots: Collection[Path], labels: Collection[str]) -> dict[str, dict[str, list[float]]]:
    """Kind → device → seconds a step, of the runs in ``roots`` whose folders begin with one of ``labels``."""
    found: dict[str, dict[str, list[float]]] = {}
    for folder in _folders(roots, labels):
        said = read_json(folder / "summary.json") or {}
        steps, seconds = said.get("steps"), said.get("time/train_s")
        if steps and seconds and steps >= LEAST_STEPS:
            settings = (read_json(folder / "run.json") or {}).get("science") or {}
            by_device = found.setdefault(_kind(settings, said.get("world_size", 1)), {})
            by_device.setdefault(str(said.get("device")), []).append(seconds / steps)
    return found


def _folders(roots: Collection[Path], labels: Collection[str]) -> Iterator[Path]:
    for root in roots:
        for entry in os.scandir(root) if root.is_dir() else ():
            if _label(entry.name) in labels:  # other routers, models, capacities and data need not be opened
                yield Path(entry.path)


def _label(run_id: str) -> str:
    """A run's id without seed and hash."""
    return run_id.rsplit("-", 2)[0]
