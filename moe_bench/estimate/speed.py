"""Seconds of training for one image, from a few pieces of work on this machine.

``python -m moe_bench.estimate.speed`` reads a JSON list of configurations and prints what it found, a JSON line for
each as soon as it is known: a sweep asks it so, and stops it when that takes too long.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from moe_bench.config import Config
from moe_bench.config.validate import from_dict
from moe_bench.errors import MoeBenchError
from moe_bench.launch.pace import UNKNOWN_CLASSES, price, training_flops
from moe_bench.model import from_config
from moe_bench.training.place import resolve
from moe_bench.training.rehearse import rehearse

MOST_PARAMS = 60_000_000
"""Beyond it two blocks with few experts stand for the model, which would take long to build."""
PIECE_FLOPS = 1e9
"""Of training, at once: some hundredths of a second on a CPU core."""


def image_seconds(cfg: Config) -> float:
    """Forward and backward of one image on one device, on noise. Raises MoeBenchError where it cannot be done here."""
    classes, r, played = cfg.data.num_classes or UNKNOWN_CLASSES, cfg.runtime, stand_in(cfg)
    at = resolve(r.accelerator, r.devices, r.nodes, r.strategy, cfg.recipe.precision, r.expert_parallel)
    group = max(1, price(played).group_images)
    most = max(1, cfg.recipe.batch // at.world // group)
    groups = max(1, min(most, int(PIECE_FLOPS / training_flops(played) / group)))
    device = "cuda" if at.accelerator == "gpu" else "cpu"
    model = from_config(played.model, played.router, played.capacity, classes)
    found = rehearse(model, cfg.model.image_size, (group, groups * group), device, at.precision)
    return found.image_s * training_flops(cfg) / training_flops(played)


def stand_in(cfg: Config) -> Config:
    """The model, or of a large one two blocks of its width, one of them with at most 8 experts."""
    if price(cfg).params_total <= MOST_PARAMS:
        return cfg
    model = cfg.model
    blocks = [1] if model.moe_blocks else []
    return replace(cfg, model=replace(model, depth=2, moe_blocks=blocks, experts=min(8, model.experts)))


def main() -> None:
    """Answer the configurations on stdin; one that cannot be measured here is answered with null."""
    for tree in json.load(sys.stdin):
        try:
            seconds = image_seconds(from_dict(tree))
        except (MoeBenchError, RuntimeError):  # no such device, or no memory
            seconds = None
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
