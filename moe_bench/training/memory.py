"""How much memory a run may take on its device."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

# Limits that a container or a SLURM job sets: version 2 of control groups, then version 1.
LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def free_bytes(accelerator: str) -> float:
    """Bytes that are free now: of the current GPU, or of this machine within the limits set on this process."""
    if accelerator == "gpu":
        return float(torch.cuda.mem_get_info()[0])
    return min([float(psutil.virtual_memory().available), *_left_in_groups()])


def _left_in_groups() -> list[float]:
    """What control groups leave, one number a limit; "max" is none."""
    left = []
    for limit, used in LIMITS:
        try:
            left.append(float(limit.read_text()) - float(used.read_text()))
        except (OSError, ValueError):
            continue
    return left
