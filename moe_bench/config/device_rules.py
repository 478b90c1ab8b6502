"""How a model and its batch divide among devices.

Each rule is a statement about a whole configuration and yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator

from moe_bench.config.model_rules import images_per_group
from moe_bench.config.problems import Problem
from moe_bench.config.schema import Config, DenseRouterConfig

DEVICES = ("runtime.devices", "runtime.nodes")


def ranks_of(cfg: Config) -> int:
    """Devices on all nodes."""
    return cfg.runtime.devices * cfg.runtime.nodes


def groups_fill_the_batch(cfg: Config) -> Iterator[Problem]:
    runtime, batch = cfg.runtime, cfg.recipe.batch
    ranks = ranks_of(cfg)
    group = images_per_group(cfg)
    unit = ranks * group
    uses = ("recipe.batch", *DEVICES, "capacity.group_images", "router.name")
    if batch % unit:
        near = [n for n in (batch // unit * unit, (batch // unit + 1) * unit) if n]
        reason = f"{runtime.devices} devices × {runtime.nodes} nodes × {group} images a routing group = {unit}"
        remedy = " or ".join(f"recipe.batch={n}" for n in near)
        yield Problem(f"recipe.batch={batch}", f"a batch must be a multiple of {reason}", remedy, uses)
        return
    local, part = batch // ranks, runtime.device_batch
    if part is not None and (local % part or part % group):
        allowed = [n for n in range(group, local + 1, group) if local % n == 0]
        near = sorted(sorted(allowed, key=lambda n: abs(n - part))[:2])
        what = f"it must divide the {local} images that a device has of each batch"
        what += "" if group == 1 else f", and be a multiple of the {group} images of a routing group"
        remedy = " or ".join(f"runtime.device_batch={n}" for n in near)
        yield Problem(f"runtime.device_batch={part}", what, remedy, (*uses, "runtime.device_batch"))


def shards_are_even(cfg: Config) -> Iterator[Problem]:
    """FSDP cuts stacked experts between experts, or else each of them along its width and hidden width."""
    model, ranks = cfg.model, ranks_of(cfg)
    if cfg.runtime.strategy != "fsdp" or cfg.runtime.expert_parallel > 1 or isinstance(cfg.router, DenseRouterConfig):
        return
    if model.experts % ranks and (model.width % ranks or model.mlp % ranks):
        what = (
            f"neither the {model.experts} experts nor their width of {model.width} and hidden width of {model.mlp} "
            f"divide among {ranks} devices"
        )
        remedy = " or ".join(f"runtime.devices={n}" for n in _near(ranks, model.experts))
        uses = ("runtime.strategy", *DEVICES, "model.experts", "model.width", "model.mlp")
        yield Problem("runtime.strategy=fsdp", what, f"{remedy} runtime.nodes=1", uses)


def experts_are_dealt_out_evenly(cfg: Config) -> Iterator[Problem]:
    share, experts, ranks = cfg.runtime.expert_parallel, cfg.model.experts, ranks_of(cfg)
    place, uses = f"runtime.expert_parallel={share}", ("runtime.expert_parallel", *DEVICES, "model.experts")
    if share == 1:
        return
    if isinstance(cfg.router, DenseRouterConfig):
        yield Problem(place, "a dense model has no experts", "runtime.expert_parallel=1", uses)
    elif experts % share or ranks % share:
        what = f"it must divide the {experts} experts of a layer and the {ranks} device(s)"
        both = [n for n in range(1, experts + 1) if experts % n == 0 and ranks % n == 0]
        remedy = " or ".join(f"runtime.expert_parallel={n}" for n in sorted(sorted(both, key=lambda n: -n)[:2]))
        yield Problem(place, what, remedy, uses)


def _near(wanted: int, whole: int) -> list[int]:
    """The two divisors of ``whole`` next to ``wanted``."""
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    return sorted(sorted(divisors, key=lambda n: abs(n - wanted))[:2])


DEVICE_RULES = (groups_fill_the_batch, shards_are_even, experts_are_dealt_out_evenly)
