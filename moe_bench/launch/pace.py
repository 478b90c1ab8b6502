"""How fast runs will train, measured in a process beside this one: no torch here, and an end when it takes long."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence

from moe_bench.config import Config, to_dict
from moe_bench.launch.python import this_program
from moe_bench.model.cost import Cost, cost

BUDGET_S = 10.0
"""Of measuring before a sweep, loading torch included; what is not measured by then follows by FLOPs."""
MOST_KINDS = 64
MOST_RUNS = 1000
"""Of a sweep whose kinds are measured: what is larger is planned at once, and has been estimated before."""
UNKNOWN_CLASSES = 1000
"""Of data whose number of classes is not among the settings: the head is a small part of a model."""


def price(cfg: Config) -> Cost:
    """What a run costs by arithmetic, before its pictures are looked at."""
    return cost(cfg.model, cfg.router, cfg.capacity, cfg.data.num_classes or UNKNOWN_CLASSES)


def training_flops(cfg: Config) -> float:
    """Of one image, forward and backward."""
    return price(cfg).flops_per_image_training


def image_seconds(configs: Sequence[Config], share: Mapping[str, str]) -> tuple[list[float] | None, int]:
    """Seconds of training for one image on one device, for each configuration; and how many of them were measured.

    ``share``: the environment variables that a run will have of its own. With more threads than it gets, on a busy
    machine, the same pieces took up to 100 times as long. What is not measured follows by its FLOPs from one with the
    same router, if there is any, else from the first. None: nothing could be measured in ``BUDGET_S``.
    """
    order = sorted(range(len(configs)), key=lambda i: training_flops(configs[i]))[:MOST_KINDS]
    found = dict(zip(order, _ask([configs[i] for i in order], share), strict=False))
    measured = {i: seconds for i, seconds in found.items() if seconds is not None}
    if not measured:
        return None, 0
    return [measured.get(i) or _scaled(cfg, configs, measured) for i, cfg in enumerate(configs)], len(measured)


def _scaled(cfg: Config, configs: Sequence[Config], measured: dict[int, float]) -> float:
    alike = [i for i in measured if configs[i].router.name == cfg.router.name]
    like = alike[0] if alike else next(iter(measured))
    return measured[like] * training_flops(cfg) / training_flops(configs[like])


def _ask(configs: Sequence[Config], share: Mapping[str, str]) -> list[float | None]:
    """What the other process answers in time."""
    command = [*this_program()[:-1], "moe_bench.estimate.speed"]
    question = json.dumps([to_dict(cfg) for cfg in configs])
    try:
        environ = os.environ | dict(share)
        done = subprocess.run(command, input=question.encode(), env=environ, capture_output=True, timeout=BUDGET_S)
        answer = done.stdout
    except subprocess.TimeoutExpired as late:
        answer = late.stdout or b""
    whole = answer[: answer.rfind(b"\n") + 1].splitlines()
    return [json.loads(line) for line in whole]
