"""A folder of runs as training leaves it, without training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from moe_bench.monitor.atomic import write_json
from moe_bench.monitor.lock import now
from moe_bench.monitor.rows import encode

ACTIVE = {"tiny": 1_210_000, "b32": 88_000_000, "b16": 89_000_000, "l16": 305_000_000}


def add_run(
    root: Path,
    router: str = "softmax_ec",
    model: str = "tiny",
    capacity: float = 1.0,
    seed: int = 0,
    *,
    data: str = "digits",
    prec1: float | None = 0.8,
    state: str = "finished",
    reason: str | None = None,
    science: dict[str, Any] | None = None,
    config: dict[str, dict[str, Any]] | None = None,
    **summary: Any,
) -> Path:
    """One run folder; ``state`` other than finished leaves out summary.json. ``summary`` adds rows to it.

    ``config`` adds settings to those of each group that run.json has.
    """
    extra = science or {}
    tag = format(random.Random(str((data, sorted(extra.items())))).getrandbits(32), "08x")
    folder = root / f"{router}-{model}-c{capacity:g}-{data}-s{seed}-{tag}"
    folder.mkdir(parents=True)
    names = {"router.name": router, "data.name": data, "seed": seed, "capacity.factor": capacity}
    usual: dict[str, dict[str, Any]] = {
        "router": {"name": router},
        "model": {"name": model},
        "capacity": {"factor": capacity},
        "recipe": {"steps": 600, "batch": 128},
    }
    groups = {group: {**usual.get(group, {}), **(config or {}).get(group, {})} for group in {**usual, **(config or {})}}
    record = {"run_id": folder.name, "config": {**groups, "seed": seed}, "science": names | extra}
    write_json(folder / "run.json", record)
    status = {"state": state, "reason": reason, "step": 600 if state == "finished" else 120, "steps": 600}
    write_json(folder / "status.json", {**status, "heartbeat": now(), "pid": 1, "host": "elsewhere", "eta_s": 95.0})
    if state == "finished":
        write_json(
            folder / "summary.json", finished_summary(folder.name, router, model, capacity, data, seed, prec1) | summary
        )
    return folder


def add_metrics(
    folder: Path, prec1: float, *, batch: int = 128, steps: int = 600, rows: int = 120, **routing: float
) -> None:
    """metrics.jsonl of a run of ``rows`` logged steps and six validations, whose accuracy rises in a line to ``prec1``.

    ``routing`` is what each training row has beside the loss, "_" for "/": ``load_cv=0.2``.
    """
    told = {f"routing/{name.replace('_', '/', 1)}": value for name, value in routing.items()}
    lines = []
    for i in range(1, rows + 1):
        at = {"step": i * steps // rows, "samples_seen": i * steps // rows * batch, "time": 1795628573.5}
        lines.append({**at, "train/loss": 5.0 - 4.0 * i / rows, "lr": 1e-3, **told})
        if i % (rows // 6) == 0:
            lines.append({**at, "val/loss": 1.0, "val/prec1": prec1 * i / rows})
    (folder / "metrics.jsonl").write_text("".join(encode(line) for line in lines))


def finished_summary(
    run_id: str, router: str, model: str, capacity: float, data: str, seed: int, prec1: float | None
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "router": router,
        "model": model,
        "capacity": capacity,
        "data": data,
        "seed": seed,
        "steps": 600,
        "samples_seen": 76_800,
        "val/prec1": prec1,
        "val/loss": 0.61,
        "probe/digits/10shot": None if prec1 is None else prec1 + 0.1,
        "probe/digits/10shot/std": 0.008,
        "probe/digits/10shot/floor": 0.743,
        "params/total": 5_812_000,
        "params/active": ACTIVE.get(model, 1_000_000),
        "flops/image": 153.2e6,
        "tokens_per_group": 512,
        "slots_per_expert": 64,
        "time/train_s": 182.4,
        "time/step_ms_median": 304.0,
        "cost/device_days": 182.4 / 86400,
        "cost/images_per_s": 421.1,
        "device": "CPU",
        "world_size": 1,
        "memory/peak_gb": 1.21,
    }
