"""What values a setting may have, one by one; how settings fit together is for the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limit:
    """A condition on one value (on each, in a list) and the words for it."""

    text: str
    holds: Callable[[Any], bool]


COUNT = Limit("at least 1", lambda v: v >= 1)
NATURAL = Limit("at least 0", lambda v: v >= 0)
POSITIVE = Limit("greater than 0", lambda v: v > 0)
SHARE = Limit("greater than 0 and at most 1", lambda v: 0 < v <= 1)
DROPPED = Limit("at least 0 and less than 1", lambda v: 0 <= v < 1)
PRINTABLE = Limit("text that can be printed", lambda v: not isinstance(v, str) or v.isprintable())
"""Of every setting without a limit of its own: what is shown later cannot write over a terminal."""

LIMITS: dict[str, Limit] = {
    "runs_dir": Limit("the path of a folder", lambda v: bool(v.strip()) and v.isprintable()),
    "seed": Limit("between 0 and 4294967295 (2^32 - 1)", lambda v: 0 <= v < 2**32),
    "router.k": COUNT,
    "router.noise": NATURAL,
    "router.importance": NATURAL,
    "router.load": NATURAL,
    "router.gshard": NATURAL,
    "router.z_loss": NATURAL,
    "router.bias_rate": NATURAL,
    "router.iterations": COUNT,
    "router.solver_lr": POSITIVE,
    "router.scale": POSITIVE,
    "model.image_size": COUNT,
    "model.patch": COUNT,
    "model.width": COUNT,
    "model.depth": COUNT,
    "model.heads": COUNT,
    "model.mlp": COUNT,
    "model.experts": COUNT,
    "model.moe_blocks": NATURAL,
    "model.dropout": DROPPED,
    "model.expert_dropout": DROPPED,
    "capacity.factor": POSITIVE,
    "capacity.eval_factor": POSITIVE,
    "capacity.multiple_of": COUNT,
    "capacity.group_images": COUNT,
    "data.num_classes": Limit("at least 2", lambda v: v >= 2),
    "data.crop": SHARE,
    "data.shuffle_window": COUNT,
    "data.max_pixels": COUNT,
    "data.skip_limit": DROPPED,
    "probe.shots": COUNT,
    "probe.draws": COUNT,
    "probe.l2": POSITIVE,
    "probe.every": NATURAL,
    "probe.crop": SHARE,
    "recipe.steps": COUNT,
    "recipe.batch": COUNT,
    "recipe.lr": POSITIVE,
    "recipe.betas": DROPPED,
    "recipe.momentum": DROPPED,
    "recipe.weight_decay": NATURAL,
    "recipe.head_decay": NATURAL,
    "recipe.clip": POSITIVE,
    "recipe.skip": Limit("between 0 and 99", lambda v: 0 <= v < 100),
    "recipe.spike": Limit("greater than 1", lambda v: v > 1),
    "recipe.warmup": NATURAL,
    "recipe.end_lr": NATURAL,
    "recipe.timescale": COUNT,
    "recipe.cooldown": NATURAL,
    "recipe.crop_area": SHARE,
    "recipe.randaugment": NATURAL,
    "recipe.randaugment_magnitude": Limit("between 0 and 30", lambda v: 0 <= v <= 30),
    "recipe.mixup": NATURAL,
    "recipe.eval_every": NATURAL,
    "recipe.checkpoint_every": NATURAL,
    "runtime.devices": COUNT,
    "runtime.nodes": COUNT,
    "runtime.device_batch": COUNT,
    "runtime.workers": NATURAL,
    "runtime.keep_checkpoints": COUNT,
    "runtime.log_every": COUNT,
    "runtime.memory_gb": POSITIVE,
    "runtime.expert_parallel": COUNT,
    "runtime.timeout_s": POSITIVE,
    "hydra.launcher.jobs": COUNT,
    "hydra.launcher.timeout_min": POSITIVE,
    "hydra.launcher.gpus_per_node": NATURAL,
    "hydra.launcher.cpus_per_task": COUNT,
    "hydra.launcher.mem_gb": COUNT,
    "hydra.launcher.signal_delay_s": COUNT,
}
