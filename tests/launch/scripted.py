"""Sweeps whose cells are small scripts instead of trainings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from moe_bench.config.sweep import Plan
from moe_bench.launch import cells, pace


def script_cells(monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> None:
    """A cell whose overrides have one of the keys runs its script; the others end at once, well."""

    def command(_plan: Plan, words: Sequence[str], _config_dir: str | None) -> list[str]:
        script = next((scripts[word] for word in words if word in scripts), "pass")
        return [sys.executable, "-c", f"import os, signal, sys, time\n{script}"]

    monkeypatch.setattr(cells, "command", command)
    monkeypatch.setattr(pace, "BUDGET_S", 0.0)  # nothing is trained, so there is nothing to time


SWEEP = """
import sys
from moe_bench import parent
from moe_bench.config.sweep import plan
from moe_bench.launch import cells, pace, sweep

CELL = {cell!r}
parent.GRACE_S = {grace}
pace.BUDGET_S = 0.0
cells.command = lambda *_: [sys.executable, "-c", CELL]
sys.exit(sweep.run(plan({words!r}, multirun=True)))
"""


def start_sweep(folder: Path, cell: str, words: Sequence[str], grace: float = 60.0) -> subprocess.Popen[str]:
    """A sweep in a process of its own, which signals can be sent to; each of its cells is the script ``cell``."""
    script = SWEEP.format(cell=f"import os, signal, sys, time\n{cell}", grace=grace, words=list(words))
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def read_until(sweep: subprocess.Popen[str], word: str) -> None:
    """Read what the sweep prints up to a line with ``word``."""
    assert sweep.stdout is not None
    while word not in (line := sweep.stdout.readline()):
        assert line, f"the sweep ended before it printed {word!r}"
