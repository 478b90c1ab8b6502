"""The command moe-bench as tests of faults use it: a run of seconds, its folder, its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from moe_bench import cli

TINY = [
    *("debug=fast", "runtime.workers=0", "runtime.log_every=1", "recipe.batch=16", "capacity.group_images=8"),
    *("model.width=16", "model.depth=2", "model.heads=2", "model.mlp=16", "model.experts=4", "model.moe_blocks=[1]"),
]
"""About 10,000 parameters, two steps."""


def moe_bench(*words: str) -> int:
    """The exit code of ``moe-bench WORDS``, in this process."""
    before, sys.argv = sys.argv, ["moe-bench", *words]
    try:
        return cli.main()
    finally:
        sys.argv = before


def only_run(folder: Path) -> Path:
    """The one run folder under ``folder``/runs."""
    (found,) = (path for path in (folder / "runs").iterdir() if path.is_dir() and not path.name.startswith("."))
    return found


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "time"} for row in found]


def figures(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a machine makes of it."""
    return [{k: v for k, v in row.items() if not k.startswith(("throughput/", "memory/"))} for row in rows(run)]
