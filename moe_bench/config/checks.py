"""How settings must fit together. Each check is a question about a whole configuration and yields what is wrong.

Letters: T tokens of a routing group, E experts, C slots of an expert, c capacity factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain

from moe_bench.config.convert import OUR_ROUTERS
from moe_bench.config.patterns import MOST_SHARDS, count_shards
from moe_bench.config.plugins import IMPL
from moe_bench.config.problems import Problem, show
from moe_bench.config.schema import (
    CapacityConfig,
    Config,
    DenseRouterConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
)

Check = Callable[[Config], Iterator[Problem]]


def check(cfg: Config, wrong: set[str] | frozenset[str] = frozenset()) -> list[Problem]:
    """Every way in which the settings do not fit, but nothing that rests on a setting or group known to be wrong."""
    found = chain.from_iterable(question(cfg) for question in QUESTIONS)
    return [p for p in found if not any(name in wrong or name.split(".")[0] in wrong for name in p.uses)]


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
    meant = f"{router.affinity}_{'tc' if router.choice == 'token' else 'ec'}"
    if router.name in OUR_ROUTERS and router.name != meant:
        remedy = f"router={meant}" if meant in OUR_ROUTERS else f"router.name={meant}"
        yield Problem(
            f"router.name={router.name}",
            f"affinity={router.affinity} with choice={router.choice} is not {router.name}",
            remedy,
            uses=("router.affinity", "router.choice"),
        )


def token_choice_has_its_options_alone(cfg: Config) -> Iterator[Problem]:
    router, experts = cfg.router, cfg.model.experts
    if not isinstance(router, SparseRouterConfig):
        return
    if router.choice == "expert":
        if router.k is not None:
            what = "the experts choose, so a token has no k; their slots are set by the capacity"
            yield Problem(f"router.k={router.k}", what, "router.k=null", ("router.choice", "router.k"))
        if router.priority != "order":
            what = "the experts choose the best tokens, so no token goes first"
            place = f"router.priority={router.priority}"
            yield Problem(place, what, "router.priority=order", ("router.choice", "router.priority"))
    elif (k := router.k or math.ceil(cfg.capacity.factor)) > experts:
        what = f"a token cannot choose {k} of {experts} experts"
        source = f"router.k={k}" if router.k else f"capacity.factor={show(cfg.capacity.factor)}"
        yield Problem(source, what, f"router.k={experts}", ("router.k", "model.experts", "capacity.factor"))


def iterations_and_solver_have_something_to_solve(cfg: Config) -> Iterator[Problem]:
    router = cfg.router
    if not isinstance(router, SparseRouterConfig):
        return
    if router.affinity == "softmax" and router.iterations != SparseRouterConfig.iterations:
        what, remedy = "a softmax is not iterated", f"router.iterations={SparseRouterConfig.iterations}"
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


def every_expert_has_a_slot(cfg: Config) -> Iterator[Problem]:
    if isinstance(cfg.router, DenseRouterConfig) or cfg.model.image_size % cfg.model.patch:
        return
    group, tokens = images_per_group(cfg), tokens_per_group(cfg)
    experts, factor = cfg.model.experts, cfg.capacity.factor
    share = factor * tokens / experts
    slots = slots_per_expert(share, cfg.capacity)
    numbers = f"T={tokens} tokens a group, E={experts} experts, c={factor:g}"
    uses = (
        *("model.image_size", "model.patch", "model.head", "model.experts"),
        *("capacity.factor", "capacity.rounding", "capacity.multiple_of", "capacity.group_images", "router.name"),
    )
    place = f"capacity.factor={show(factor)}"
    if slots < 1:
        least = f"capacity.factor={math.ceil(experts / tokens * 1000) / 1000:g}"
        more = "" if group == 1 else f", or capacity.group_images={math.ceil(group / share)}"
        yield Problem(place, f"C = c·T/E = {share:.3g} is less than one slot ({numbers})", least + more, uses)
    elif isinstance(cfg.router, SparseRouterConfig) and cfg.router.choice == "expert" and slots > tokens:
        what = f"an expert cannot choose C={slots} of {tokens} tokens ({numbers})"
        yield Problem(place, what, f"at most capacity.factor={experts}, with capacity.multiple_of=1", uses)


def groups_fill_the_batch(cfg: Config) -> Iterator[Problem]:
    runtime, batch = cfg.runtime, cfg.recipe.batch
    ranks = runtime.devices * runtime.nodes
    group = images_per_group(cfg)
    unit = ranks * group
    uses = ("recipe.batch", "runtime.devices", "runtime.nodes", "capacity.group_images", "router.name")
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


def schedule_fits_the_steps(cfg: Config) -> Iterator[Problem]:
    recipe = cfg.recipe
    warmup, cooldown = recipe.warmup or 0, recipe.cooldown
    if warmup > recipe.steps:
        what = f"the warm-up is longer than the {recipe.steps} steps of the run"
        yield Problem(f"recipe.warmup={warmup}", what, "recipe.warmup=null", ("recipe.warmup", "recipe.steps"))
    elif warmup + cooldown > recipe.steps:
        what = f"{warmup} steps of warm-up and {cooldown} of cool-down are more than the {recipe.steps} of the run"
        remedy = f"recipe.cooldown={recipe.steps - warmup}"
        needs = ("recipe.cooldown", "recipe.warmup", "recipe.steps")
        yield Problem(f"recipe.cooldown={cooldown}", what, remedy, needs)
    if cooldown and recipe.schedule != "rsqrt":
        what = f"the {recipe.schedule} schedule has no cool-down"
        place, uses = f"recipe.cooldown={cooldown}", ("recipe.cooldown", "recipe.schedule")
        yield Problem(place, what, "recipe.cooldown=0, or recipe.schedule=rsqrt", uses)
    if recipe.schedule in ("linear", "cosine") and recipe.end_lr > recipe.lr:
        what = f"the {recipe.schedule} schedule falls to it from recipe.lr={show(recipe.lr)}"
        place, remedy = f"recipe.end_lr={show(recipe.end_lr)}", f"recipe.end_lr={show(recipe.lr / 100)}"
        yield Problem(place, what, remedy, ("recipe.end_lr", "recipe.lr", "recipe.schedule"))
    if len(recipe.betas) != 2:
        yield Problem(
            f"recipe.betas={show(recipe.betas)}", "Adam has two", "recipe.betas=[0.9,0.999]", ("recipe.betas",)
        )


def loss_fits_the_labels(cfg: Config) -> Iterator[Problem]:
    if cfg.data.labels == "multi" and cfg.recipe.loss == "softmax":
        what = "the softmax loss knows one label a picture, and data.labels=multi"
        yield Problem("recipe.loss=softmax", what, "recipe.loss=sigmoid", ("recipe.loss", "data.labels"))


def data_is_named_once(cfg: Config) -> Iterator[Problem]:
    data = cfg.data
    uses = ("data.path", "data.train", "data.val")
    if data.path is None and data.train is None:
        what = "no pictures: data.path, a folder of shards, is not set"
        yield Problem(
            f"data={data.name or 'shards'}", what, "data.path=DIR, or data.train=PATTERN data.val=PATTERN", uses
        )
    elif data.path is not None and (data.train is not None or data.val is not None):
        what = "the pictures are named twice: by data.path and by data.train or data.val"
        yield Problem(f"data.path={data.path}", what, "only one of them", uses)
    elif data.path is None and data.val is None:
        yield Problem("data.train", "there are no pictures to validate on", "data.val=PATTERN", uses)


def patterns_are_bounded(cfg: Config) -> Iterator[Problem]:
    for name in ("train", "val"):
        value = getattr(cfg.data, name)
        patterns = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(p, str) for p in patterns):
            what = "shards are named by a pattern or a list of patterns"
            yield Problem(f"data.{name}", what, f"data.{name}='DIR/{name}-{{000..099}}.tar'", (f"data.{name}",))
        elif (count := sum(map(count_shards, patterns))) > MOST_SHARDS:
            what = f"the braces stand for {count:.3g} shards; the most is {MOST_SHARDS:,}"
            yield Problem(f"data.{name}={show(value)}", what, uses=(f"data.{name}",))


def probe_has_shots(cfg: Config) -> Iterator[Problem]:
    if cfg.probe.sets and not cfg.probe.shots:
        yield Problem(
            "probe.shots=[]", "a probe needs a number of pictures a class", "probe.shots=[10]", ("probe.shots",)
        )


QUESTIONS: tuple[Check, ...] = (
    patches_tile_the_image,
    heads_divide_the_width,
    moe_blocks_are_blocks,
    router_name_tells_the_truth,
    token_choice_has_its_options_alone,
    iterations_and_solver_have_something_to_solve,
    load_loss_has_noise,
    own_router_can_be_found,
    every_expert_has_a_slot,
    groups_fill_the_batch,
    schedule_fits_the_steps,
    loss_fits_the_labels,
    data_is_named_once,
    patterns_are_bounded,
    probe_has_shots,
)
