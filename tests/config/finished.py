"""What a finished run leaves for others to begin with, as far as it is read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_bench import config


def finished_run(runs: Path, *typed: str) -> Path:
    """The folder of a run of these settings that is finished."""
    cfg = config.load(typed)
    run = runs / config.run_id(cfg)
    run.mkdir(parents=True)
    write(run / "run.json", {"config": config.to_dict(cfg)})
    write(run / "summary.json", {"run_id": run.name, "steps": cfg.recipe.steps})
    return run


def write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
