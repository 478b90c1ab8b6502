"""From "auto" to devices, a precision and a way to cut the batch.

B images a step over all devices; a device sees B / devices of them, in ``accumulation`` pieces of ``device_batch``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moe_bench.errors import ConfigError

BF16_CAPABILITY = (8, 0)  # the first GPUs with bfloat16 matrix units


@dataclass(frozen=True)
class Place:
    """Where a run computes. ``precision`` is Lightning's word for it."""

    accelerator: str  # cpu or gpu
    devices: int  # on each node
    nodes: int
    strategy: str  # auto (one device), ddp or fsdp
    precision: str  # 32-true or bf16-mixed
    name: str  # of the device, for people
    expert_parallel: int = 1  # ranks that share the experts of a layer

    @property
    def world(self) -> int:
        return self.devices * self.nodes

    @property
    def whole(self) -> bool:
        """Whether each device has the whole model."""
        return self.strategy != "fsdp" and self.expert_parallel == 1

    @property
    def sharing(self) -> str:
        """How the devices share the model, for people; empty for one device."""
        dealt = f", experts over {self.expert_parallel}" if self.expert_parallel > 1 else ""
        return "" if self.world == 1 else self.strategy + dealt


def torch_device(asked: str) -> str:
    """The one device that a verb computes on, "cpu" or "cuda", from "auto", "cpu" or "gpu"."""
    return "cuda" if resolve(asked).accelerator == "gpu" else "cpu"


def resolve(
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: str = "auto",
    precision: str = "auto",
    expert_parallel: int = 1,
) -> Place:
    """Settings → where and how to compute on this machine.

    A device for itself has nothing to share: there ``strategy`` is "auto" whatever was asked. On a CPU a device is a
    process.

    Raises:
        ConfigError: a GPU is asked for and there is none; or more GPUs than there are.
    """
    gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not gpu:
        raise ConfigError("runtime.accelerator=gpu, but torch sees no CUDA device here. Use runtime.accelerator=auto.")
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"runtime.accelerator={accelerator}: use auto, cpu or gpu.")
    chosen = "gpu" if gpu and accelerator != "cpu" else "cpu"
    if chosen == "gpu" and devices > torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"runtime.devices={devices}, but torch sees {found} here. Type runtime.devices={found}.")
    name = torch.cuda.get_device_name() if chosen == "gpu" else "CPU"
    shared = "auto" if devices * nodes == 1 else "ddp" if strategy == "auto" else strategy
    return Place(chosen, devices, nodes, shared, _precision(precision, chosen), name, expert_parallel)


def _precision(asked: str, accelerator: str) -> str:
    if asked not in ("auto", "32", "bf16"):
        raise ConfigError(f"recipe.precision={asked}: use auto, 32 or bf16.")
    fast = accelerator == "gpu" and torch.cuda.get_device_capability() >= BF16_CAPABILITY
    return "bf16-mixed" if asked == "bf16" or (asked == "auto" and fast) else "32-true"


def accumulation(batch: int, world: int, device_batch: int) -> int:
    """Pieces that each device cuts its share of a step's batch into.

    Raises:
        ConfigError: it does not come out even.
    """
    if batch % world or (batch // world) % device_batch:
        sizes = ", ".join(str(size) for size in divisors(batch // world)[-8:]) if batch % world == 0 else "none"
        raise ConfigError(
            f"recipe.batch={batch} over {world} device(s) in pieces of runtime.device_batch={device_batch} does not "
            f"come out even. Pieces that do: {sizes}."
        )
    return batch // world // device_batch


def divisors(number: int) -> list[int]:
    """Ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]
