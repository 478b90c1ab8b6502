"""How the runs of a sweep are started, as frozen dataclasses: the settings under hydra.launcher of either launcher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LocalLauncher:
    """How the runs of a sweep are started on this machine (hydra/launcher=local)."""

    jobs: int = 1  # runs at once
    timeout_min: float | None = None  # that a run may take


@dataclass(frozen=True)
class SlurmLauncher:
    """How the runs of a sweep are handed to SLURM (hydra/launcher=submitit_slurm). None: SLURM's own default."""

    jobs: int | None = None  # at once; None: as many as SLURM starts
    timeout_min: float | None = None  # of a job; it is queued again after that, and goes on
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus_per_node: int | None = None  # None: runtime.devices, none for accelerator=cpu
    cpus_per_task: int | None = None
    mem_gb: int | None = None  # of a node
    signal_delay_s: int = 120  # a job is told so long before its end
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # any other option of sbatch


Launcher = LocalLauncher | SlurmLauncher

LAUNCHERS: dict[str, type[Launcher]] = {"local": LocalLauncher, "submitit_slurm": SlurmLauncher}
