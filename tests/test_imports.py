"""Imports run one way, and the parts that a notebook wants come without the runner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUNNERS = ("hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb")


def imported_with(module: str, *unwanted: str) -> list[str]:
    """Which of the unwanted packages a fresh interpreter has loaded after importing a module."""
    code = f"import sys, {module}; print([n for n in {unwanted!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return eval(done.stdout)  # a list of words that the line above printed


@pytest.mark.parametrize(
    "module", ["moe_bench.routing", "moe_bench.model", "moe_bench.probe.ridge", "moe_bench.data.plan"]
)
def test_the_science_needs_no_runner(module: str) -> None:
    assert imported_with(module, *RUNNERS) == []


@pytest.mark.parametrize(
    "module", ["moe_bench", "moe_bench.cli", "moe_bench.config", "moe_bench.usage", "moe_bench.model.cost"]
)
def test_asking_needs_no_torch(module: str) -> None:
    assert imported_with(module, "torch", "lightning", "wandb", "hydra") == []


def test_imports_run_one_way() -> None:
    """The contracts of pyproject.toml, which `make lint` checks too."""
    pytest.importorskip("importlinter")
    checkout = Path(__file__).parents[1]
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
