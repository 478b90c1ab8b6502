"""How the settings of model, router and capacity must fit together.

Each rule is a statement about a whole configuration and yields what breaks it.
Letters: T tokens of a routing group, E experts, C slots of an expert, c capacity factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from moe_bench.config.convert import OUR_ROUTERS
from moe_bench.config.plugins import IMPL
from moe_bench.config.problems import Problem, show
from moe_bench.config.schema import (
    CapacityConfig,
    Config,
    DenseRouterConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
    token_choices,
)


def images_per_group(cfg: Config) -> int:
    """Images whose tokens are routed together: Soft MoE takes each by itself, and a dense model routes none."""
    return 1 if isinstance(cfg.router, SoftRouterConfig | DenseRouterConfig) else cfg.capacity.group_images


def tokens_per_group(cfg: Config) -> int:
    """T: the patches of a group's images, and their class tokens."""
    tokens = (cfg.model.image_size // cfg.model.patch) ** 2 + (cfg.model.head == "token")
    return images_per_group(cfg) * tokens


def slots_per_expert(share: float, capacity: CapacityConfig) -> int:
    """C from ``share`` = c·T/E; 0 if it rounds to nothing."""
    slots = math.ceil(share) if capacity.rounding == "up" else round(share)
    return math.ceil(slots / capacity.multiple_of) * capacity.multiple_of


def patches_tile_the_image(cfg: Config) -> Iterator[Problem]:
    size, patch = cfg.model.image_size, cfg.model.patch
    if size % patch:
        near = [n for n in (size // patch * patch, (size // patch + 1) * patch) if n]
        yield Problem(
            f"model.patch={patch}",
            f"patches of {patch} pixels do not tile an image of {size}",
            " or ".join(f"model.image_size={n}" for n in near),
            uses=("model.image_size", "model.patch"),
        )


def heads_divide_the_width(cfg: Config) -> Iterator[Problem]:
    width, heads = cfg.model.width, cfg.model.heads
    if width % heads:
        allowed = [n for n in range(1, width + 1) if width % n == 0]
        near = sorted(sorted(allowed, key=lambda n: abs(n - heads))[:2])
        yield Problem(
            f"model.heads={heads}",
            f"{heads} heads do not divide a width of {width}",
            " or ".join(f"model.heads={n}" for n in near),
            uses=("model.width", "model.heads"),
        )


def moe_blocks_are_blocks(cfg: Config) -> Iterator[Problem]:
    blocks, depth = cfg.model.moe_blocks, cfg.model.depth
    place, uses = f"model.moe_blocks={show(blocks)}", ("model.moe_blocks", "model.depth")
    outside = [b for b in blocks if b >= depth]
    if outside:
        remedy = f"model.moe_blocks=[{','.join(str(b) for b in range(1, depth, 2))}]" if depth > 1 else ""
        yield Problem(place, f"blocks are counted from 0: the last of {depth} is {depth - 1}", remedy, uses)
    if len(set(blocks)) < len(blocks):
        distinct = ",".join(map(str, sorted(set(blocks))))
        yield Problem(place, "a block is named twice", f"model.moe_blocks=[{distinct}]", uses)
    if not blocks and not isinstance(cfg.router, DenseRouterConfig):
        yield Problem(
            place, f"without MoE blocks there is nothing for {cfg.router.name} to route", "router=dense", uses
        )


def router_name_tells_the_truth(cfg: Config) -> Iterator[Problem]:
    """A run is filed under its router's name, so the paper's names are kept for the paper's routers."""
    router = cfg.router
    if not isinstance(router, SparseRouterConfig):
        return
    meant = f"{router.affinity.rpartition(':')[2]}_{'tc' if router.choice == 'token' else 'ec'}"
    if router.name in OUR_ROUTERS and router.name != meant:
        remedy = f"router={meant}" if meant in OUR_ROUTERS else f"router.name={meant}"
        yield Problem(
            f"router.name={router.name}",
            f"affinity={router.affinity} with choice={router.choice} is not {router.name}",
            remedy,
            uses=("router.affinity", "router.choice"),
        )


def token_choice_has_its_options_alone(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if not isinstance(router, SparseRouterConfig) or router.choice == "token":
        return
    if router.k is not None:
        what = "the experts choose, so a token has no k; their slots are set by the capacity"
        yield Problem(f"router.k={router.k}", what, "router.k=null", ("router.choice", "router.k"))
    if router.priority != "order":
        what = "the experts choose the best tokens, so no token goes first"
        place = f"router.priority={router.priority}"
        yield Problem(place, what, "router.priority=order", ("router.choice", "router.priority"))
    if router.bias_rate:
        what = "a bias balances experts that tokens choose; those that choose are full already, each with C tokens"
        place = f"router.bias_rate={show(router.bias_rate)}"
        yield Problem(place, what, "router.bias_rate=0", ("router.choice", "router.bias_rate"))


def a_token_chooses_among_the_experts(cfg: Config) -> Iterator[Problem]:
    k, experts = token_choices(cfg.router, cfg.capacity), cfg.model.experts
    if k is not None and k > experts:
        what = f"a token cannot choose {k} of {experts} experts"
        chosen = getattr(cfg.router, "k", None)
        source = f"router.k={k}" if chosen else f"capacity.factor={show(cfg.capacity.factor)}"
        yield Problem(source, what, f"router.k={experts}", ("router.k", "model.experts", "capacity.factor"))


def gates_that_weigh_are_the_weights(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if isinstance(router, SparseRouterConfig) and router.affinity in ("sigmoid", "relu") and router.combine != "plan":
        what = f"{router.affinity} gates weigh the outputs themselves, and a softmax beside them would be another gate"
        uses = ("router.affinity", "router.combine")
        yield Problem(f"router.combine={router.combine}", what, "router.combine=plan", uses)


def iterations_and_solver_have_something_to_solve(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if not isinstance(router, SparseRouterConfig):
        return
    if router.affinity not in ("sinkhorn", "sparse") and router.iterations is not None:
        what, remedy = f"affinity={router.affinity} is not iterated", "router.iterations=null"
        yield Problem(f"router.iterations={router.iterations}", what, remedy, ("router.affinity", "router.iterations"))
    if router.affinity != "sparse":
        for key in ("solver", "solver_lr"):
            if (value := getattr(router, key)) is not None:
                what = f"only affinity=sparse has a {key}; this is affinity={router.affinity}"
                yield Problem(
                    f"router.{key}={show(value)}", what, f"router.{key}=null", ("router.affinity", f"router.{key}")
                )
    elif router.solver not in (None, "adam") and router.solver_lr is not None:
        what = f"it is Adam's step, and solver={router.solver} takes none"
        place = f"router.solver_lr={show(router.solver_lr)}"
        yield Problem(place, what, "router.solver_lr=null", ("router.solver", "router.solver_lr"))


def load_loss_has_noise(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if isinstance(router, SparseRouterConfig) and router.load > 0 and router.noise == 0:
        what = "the load loss is a probability over the noise on the logits, and router.noise=0"
        yield Problem(f"router.load={show(router.load)}", what, "router.load=0", ("router.load", "router.noise"))


def the_sparse_plan_is_made_of_clean_gates(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if isinstance(router, SparseRouterConfig) and router.affinity == "sparse" and router.noise:
        what = "eq. 9 is solved on gates without noise, as in the authors' code"
        uses = ("router.affinity", "router.noise")
        yield Problem(f"router.noise={show(router.noise)}", what, "router.noise=0", uses)


def own_router_can_be_found(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if router.impl is not None and not IMPL.fullmatch(router.impl):
        what = "a router of your own is named by its module and class"
        yield Problem(f"router.impl={router.impl}", what, "router.impl=package.module:Class", ("router.impl",))
    if router.options and type(router) is not RouterConfig:
        what = f"these are for a router of your own, and {router.name} is one of ours"
        yield Problem(
            f"router.options={show(router.options)}", what, "router.impl=package.module:Class", ("router.options",)
        )


def dense_dispatches_nothing(cfg: Config) -> Iterator[Problem]:
    if isinstance(cfg.router, DenseRouterConfig) and cfg.router.bf16_dispatch:
        what = "a dense model sends nothing to experts, so nothing is rounded on the way"
        yield Problem("router.bf16_dispatch=true", what, "router.bf16_dispatch=false", ("router.bf16_dispatch",))


def slots_that_are_parameters_stay(cfg: Config) -> Iterator[Problem]:
    if isinstance(cfg.router, SoftRouterConfig) and cfg.capacity.eval_factor is not None:
        what = "the slots of Soft MoE are learned parameters, so evaluation has exactly those of training"
        place, uses = f"capacity.eval_factor={show(cfg.capacity.eval_factor)}", ("capacity.eval_factor", "router.name")
        yield Problem(place, what, "capacity.eval_factor=null", uses)


def every_expert_has_a_slot(cfg: Config) -> Iterator[Problem]:
    if isinstance(cfg.router, DenseRouterConfig) or cfg.model.image_size % cfg.model.patch:
        return
    for setting in ("factor", "eval_factor"):
        if (factor := getattr(cfg.capacity, setting)) is not None:
            yield from _slots_fit(cfg, f"capacity.{setting}", factor)


def _slots_fit(cfg: Config, setting: str, factor: float) -> Iterator[Problem]:
    group, tokens, experts = images_per_group(cfg), tokens_per_group(cfg), cfg.model.experts
    share = factor * tokens / experts
    slots = slots_per_expert(share, cfg.capacity)
    numbers = f"T={tokens} tokens a group, E={experts} experts, c={factor:g}"
    uses = (
        *("model.image_size", "model.patch", "model.head", "model.experts"),
        *(setting, "capacity.rounding", "capacity.multiple_of", "capacity.group_images", "router.name"),
    )
    place = f"{setting}={show(factor)}"
    if slots < 1:
        least = f"{setting}={math.ceil(experts / tokens * 1000) / 1000:g}"
        more = "" if group == 1 else f", or capacity.group_images={math.ceil(group / share)}"
        yield Problem(place, f"C = c·T/E = {share:.3g} is less than one slot ({numbers})", least + more, uses)
    elif isinstance(cfg.router, SparseRouterConfig) and cfg.router.choice == "expert" and slots > tokens:
        what = f"an expert cannot choose C={slots} of {tokens} tokens ({numbers})"
        yield Problem(place, what, f"at most {setting}={experts}, with capacity.multiple_of=1", uses)


MODEL_RULES = (
    patches_tile_the_image,
    heads_divide_the_width,
    moe_blocks_are_blocks,
    router_name_tells_the_truth,
    token_choice_has_its_options_alone,
    a_token_chooses_among_the_experts,
    gates_that_weigh_are_the_weights,
    iterations_and_solver_have_something_to_solve,
    load_loss_has_noise,
    the_sparse_plan_is_made_of_clean_gates,
    own_router_can_be_found,
    dense_dispatches_nothing,
    slots_that_are_parameters_stay,
    every_expert_has_a_slot,
)
