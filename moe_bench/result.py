"""What a run says of itself: the facts of its header, and summary.json."""

from __future__ import annotations

import math
from typing import Any

from moe_bench.build import Measures, Pictures
from moe_bench.config import Config, run_id
from moe_bench.config.schema import SoftRouterConfig, SparseRouterConfig
from moe_bench.model.cost import Cost
from moe_bench.monitor.header import RunFacts, router_words
from moe_bench.training.strategy import Place, accumulation


def facts(
    cfg: Config, at: Place, found: Pictures, costs: Cost, device_batch: int, *, note: str, folder: str, about_s: float
) -> RunFacts:
    """What is printed before the run. ``about_s``: seconds of training expected."""
    dense = not costs.tokens_per_group
    return RunFacts(
        run_id=run_id(cfg),
        folder=folder,
        note=note,
        model=cfg.model.name,
        image_size=cfg.model.image_size,
        patch=cfg.model.patch,
        params_total=costs.params_total,
        params_active=costs.params_active,
        flops_per_image=costs.flops_per_image,
        router=_words(cfg),
        experts=0 if dense else cfg.model.experts,
        moe_layers=0 if dense else len(cfg.model.moe_blocks),
        tokens_per_group=costs.tokens_per_group,
        group_images=1 if isinstance(cfg.router, SoftRouterConfig) else cfg.capacity.group_images,
        slots_per_expert=costs.slots_per_expert,
        capacity=cfg.capacity.factor,
        data=found.name,
        train_size=len(found.train),
        val_size=len(found.val),
        classes=found.num_classes,
        steps=cfg.recipe.steps,
        batch=cfg.recipe.batch,
        device_batch=device_batch,
        accumulation=accumulation(cfg.recipe.batch, at.world, device_batch),
        devices=at.world,
        device=at.name,
        precision=at.precision,
        about_s=about_s,
    )


def _words(cfg: Config) -> str:
    router = cfg.router
    if not isinstance(router, SparseRouterConfig):
        return router_words(router.name)
    k = math.ceil(cfg.capacity.factor) if router.k is None else router.k
    return router_words(router.name, router.affinity, router.choice, router.combine, k)


def summary(cfg: Config, at: Place, found: Pictures, costs: Cost, measures: Measures) -> dict[str, Any]:
    """summary.json: accuracies are shares of 1; times are in the unit that their name ends in."""
    return {
        "run_id": run_id(cfg),
        "router": cfg.router.name,
        "model": cfg.model.name,
        "capacity": cfg.capacity.factor,
        "data": found.name,
        "seed": cfg.seed,
        "steps": cfg.recipe.steps,
        "samples_seen": cfg.recipe.steps * cfg.recipe.batch,
        **measures.validation.metrics,
        **measures.probe.metrics,
        "params/total": costs.params_total,
        "params/active": costs.params_active,
        "flops/image": costs.flops_per_image,
        "tokens_per_group": costs.tokens_per_group,
        "slots_per_expert": costs.slots_per_expert,
        **measures.throughput.summary(),
        "device": at.name,
        "world_size": at.world,
        "precision": at.precision,
    }
