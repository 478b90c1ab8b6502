"""What a run says of itself: the facts of its header, and summary.json."""

from __future__ import annotations

from typing import Any

from moe_bench.build import Measures, Pictures
from moe_bench.config import Config, run_id
from moe_bench.config.schema import SoftRouterConfig, SparseRouterConfig, token_choices
from moe_bench.model.cost import Cost
from moe_bench.monitor.header import RunFacts, router_words
from moe_bench.routing.affinity import ITERATIONS
from moe_bench.routing.capacity import slots_per_expert
from moe_bench.routing.transport import iterations_of
from moe_bench.training.place import Place, accumulation
from moe_bench.training.rehearse import Rehearsal


def facts(
    cfg: Config,
    at: Place,
    found: Pictures,
    costs: Cost,
    device_batch: int,
    weights: str,
    *,
    note: str,
    folder: str,
    about_s: float | None,
) -> RunFacts:
    """What is printed before the run. ``weights``: where they are from. ``about_s``: seconds of training expected."""
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
        weights=weights,
        router=_words(cfg, costs),
        experts=0 if dense else cfg.model.experts,
        moe_layers=0 if dense else len(cfg.model.moe_blocks),
        tokens_per_group=costs.tokens_per_group,
        group_images=1 if isinstance(cfg.router, SoftRouterConfig) else cfg.capacity.group_images,
        slots_per_expert=costs.slots_per_expert,
        capacity=cfg.capacity.factor,
        evaluation=_evaluation(cfg, costs),
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
        sharing=at.sharing,
        precision=at.precision,
        about_s=about_s,
    )


def _words(cfg: Config, costs: Cost) -> str:
    router = cfg.router
    k = token_choices(router, cfg.capacity)
    if not isinstance(router, SparseRouterConfig):
        return router_words(router.name, k=k)
    return router_words(router.name, router.affinity, router.choice, router.combine, k, _solving(cfg, costs))


def _solving(cfg: Config, costs: Cost) -> dict[str, Any]:
    """How the plan of a router is found: by which solver, and in how many iterations at most."""
    router = cfg.router
    if not isinstance(router, SparseRouterConfig) or router.affinity not in ("sinkhorn", "sparse"):
        return {}
    if router.affinity == "sinkhorn":
        return {"router/iterations": router.iterations or ITERATIONS}
    assert router.solver is not None
    usual = iterations_of(router.solver, costs.tokens_per_group, cfg.model.experts)
    return {"router/solver": router.solver, "router/iterations": router.iterations or usual}


def _evaluation(cfg: Config, costs: Cost) -> dict[str, Any]:
    """The capacity of evaluation, where it is another than that of training."""
    c = cfg.capacity
    if c.eval_factor is None:
        return {}
    slots = slots_per_expert(costs.tokens_per_group, cfg.model.experts, c.eval_factor, c.rounding, c.multiple_of)
    return {"capacity/eval": c.eval_factor, "slots_per_expert/eval": slots}


def _origin(cfg: Config) -> dict[str, Any]:
    """The weights that the run began with, where they were not drawn."""
    return {f"init/{how}": cfg.init.source for how in ("run", "upcycle") if getattr(cfg.init, how)}


def summary(
    cfg: Config, at: Place, found: Pictures, costs: Cost, measures: Measures, rehearsed: Rehearsal | None
) -> dict[str, Any]:
    """summary.json: accuracies are shares of 1; times are in the unit that their name ends in."""
    return {
        "run_id": run_id(cfg),
        "router": cfg.router.name,
        "model": cfg.model.name,
        "capacity": cfg.capacity.factor,
        "data": found.name,
        "seed": cfg.seed,
        **_origin(cfg),
        "steps": cfg.recipe.steps,
        "samples_seen": cfg.recipe.steps * cfg.recipe.batch,
        **measures.accounting.summary(cfg.recipe.steps),
        **measures.validation.metrics,
        **measures.probe.metrics,
        "params/total": costs.params_total,
        "params/active": costs.params_active,
        "flops/image": costs.flops_per_image,
        "flops/step": costs.flops_per_image_training * cfg.recipe.batch,
        "tokens_per_group": costs.tokens_per_group,
        "slots_per_expert": costs.slots_per_expert,
        **_evaluation(cfg, costs),
        **_solving(cfg, costs),
        **measures.throughput.summary(),
        "time/routing_share": None if rehearsed is None else rehearsed.routing_share,
        "device": at.name,
        "world_size": at.world,
        "precision": at.precision,
    }
