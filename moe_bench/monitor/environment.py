"""Where a run happened: versions, the code's commit, the machine. Imports no torch."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "moe-bench",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scikit-learn",
    "wandb",
)


@cache
def host() -> str:
    return socket.gethostname()


def snapshot() -> dict[str, Any]:
    """Versions, commit, host and Python, as run.json keeps them."""
    return {
        "versions": {name: found for name in PACKAGES if (found := version(name))},
        "git": git_state(Path(__file__).parent),
        "host": host(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it; None where git does not track ``folder`` (a wheel)."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not _git(folder, "ls-files", "--", "."):
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def version(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
