"""What each of several runs at once gets of this machine: GPUs of its own, or its part of the CPU's threads."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from moe_bench.config import Config
from moe_bench.cores import cores
from moe_bench.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
ASK_S = 30.0
"""How long nvidia-smi may take."""


def shares(jobs: int, configs: Sequence[Config], environ: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Environment variables for each of ``jobs`` runs at once. One alone has the whole machine.

    Raises:
        ConfigError: the GPUs do not suffice for so many runs.
    """
    env = os.environ if environ is None else environ
    if jobs == 1 or not configs:
        return [{} for _ in range(jobs)]
    devices = max(cfg.runtime.devices for cfg in configs)
    gpus = [] if all(cfg.runtime.accelerator == "cpu" for cfg in configs) else find_gpus(env)
    if gpus:
        if jobs * devices > len(gpus):
            raise ConfigError(
                f"hydra.launcher.jobs={jobs} with runtime.devices={devices} needs {jobs * devices} GPUs, and "
                f"{len(gpus)} are here. Type hydra.launcher.jobs={max(1, len(gpus) // devices)}."
            )
        return [{VISIBLE: ",".join(gpus[i * devices : (i + 1) * devices])} for i in range(jobs)]
    if THREADS in env:  # as asked for
        return [{} for _ in range(jobs)]
    return [{THREADS: str(max(1, cores() // (jobs * devices)))} for _ in range(jobs)]


def find_gpus(environ: Mapping[str, str]) -> list[str]:
    """What CUDA calls the GPUs that it may use here. Asks the driver: torch would take seconds."""
    if VISIBLE in environ:
        return [name for name in environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        asked = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=ASK_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.splitlines() if line.strip()]
