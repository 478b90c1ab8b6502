"""What fits on a device: images at once, within its memory, and data processes, within its machine's cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moe_bench.config import Config
from moe_bench.data.loader import default_workers
from moe_bench.errors import ConfigError, MoeBenchError
from moe_bench.model.cost import Cost
from moe_bench.model.fit import Fit, fits
from moe_bench.model.memory import FLOAT32
from moe_bench.ranks import Alone
from moe_bench.training.memory import free_bytes
from moe_bench.training.place import Place

GB = 1e9


def device_batch(cfg: Config, at: Place, costs: Cost, group: Alone) -> int:
    """Images at once on a device: as asked for, or the most that fit its memory in whole routing groups.

    Of all ranks the one with the least memory decides; on a CPU those of a machine share it.

    Raises ConfigError with the numbers, before anything large is allocated, where the model cannot fit.
    """
    asked = cfg.runtime.device_batch
    found_free = cfg.runtime.memory_gb * GB if cfg.runtime.memory_gb else free_bytes(at.accelerator)
    free = group.smallest(round(found_free / (at.devices if at.accelerator == "cpu" else 1)))
    found = fits(
        costs,
        asked or cfg.recipe.batch // at.world,
        free,
        optimizer=cfg.recipe.optimizer,
        autocast=at.precision.startswith("bf16"),
        held=parameters_held(at, costs),
    )
    if found.device_batch < (asked or 1):
        raise ConfigError(too_large(cfg, at, costs, found, free))
    return found.device_batch


def parameters_held(at: Place, costs: Cost) -> int | None:
    """How many parameters a device keeps for good; None: all of them."""
    if at.whole:
        return None
    experts, others = costs.expert_params, costs.params_total - costs.expert_params
    if at.expert_parallel > 1:
        return experts // at.expert_parallel + others // (at.world if at.strategy == "fsdp" else 1)
    return costs.params_total // at.world


def too_large(cfg: Config, at: Place, costs: Cost, found: Fit, free: float) -> str:
    """Why a model or a device batch is refused, with the numbers and what to do."""
    asked = cfg.runtime.device_batch
    if found.device_batch and asked:
        wanted = found.fixed_bytes + asked * found.bytes_per_image
        return (
            f"runtime.device_batch={asked} needs about {wanted / GB:.1f} GB and {free / GB:.1f} GB are free on "
            f"{at.name}. Type runtime.device_batch={found.device_batch}, or leave it out to take what fits."
        )
    return (
        f"model={cfg.model.name} does not fit: {costs.params_total / 1e6:,.0f} M parameters with their gradients and "
        f"{cfg.recipe.optimizer}'s moments take {found.fixed_bytes / GB:.1f} GB, with the smallest batch of "
        f"{found.smallest_batch} image(s) about {found.needed_bytes / GB:.1f} GB, and {free / GB:.1f} GB are free on "
        f"{at.name}. Nothing was allocated. Use fewer experts (model.experts=8), a smaller model, a larger machine, or "
        "several devices that share it (runtime=fsdp runtime.devices=N); runtime.memory_gb=N says that more may be "
        "used than is free now."
    )


def training_workers(cfg: Config, at: Place, costs: Cost) -> int | None:
    """Data processes of training: as asked for, or None, as the data module sees fit.

    A forked process keeps the weights as they were before the first update. Where they lie in host memory and are
    large, training is far slower than reading pictures, and does it itself unless told otherwise.
    """
    if cfg.runtime.workers is None and at.accelerator == "cpu" and costs.params_total * FLOAT32 > GB:
        return 0
    return workers(cfg, at)


def workers(cfg: Config, at: Place) -> int | None:
    """Data processes of a rank: as asked for, or None, as the data module sees fit where it is alone on its machine."""
    if cfg.runtime.workers is None and at.devices > 1:
        return default_workers(at.devices)
    return cfg.runtime.workers


@contextmanager
def explaining_shortage(cfg: Config, costs: Cost, pieces: int) -> Iterator[None]:
    """Tell memory that ran out inside as what it is, with the numbers that it depends on and what to type."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        group = max(1, costs.group_images)
        fewer = [n for n in range(group, pieces, group) if pieces % n == 0]
        lower = f"Type runtime.device_batch={fewer[-1]}" if fewer else "Use fewer experts (model.experts)"
        routed = f", {cfg.model.experts} experts × {costs.slots_per_expert} slots" if costs.slots_per_expert else ""
        raise MoeBenchError(
            f"memory ran out: {costs.params_total:,} parameters, {pieces} pictures at once, groups of "
            f"{costs.tokens_per_group} tokens{routed}. {lower}, or use a larger machine; the "
            "run goes on from its last checkpoint."
        ) from error


def _is_shortage(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
