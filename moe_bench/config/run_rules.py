"""How batch, schedule, loss, data and probe must fit together.

Each rule is a statement about a whole configuration and yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator

from moe_bench.config.here import DIGITS
from moe_bench.config.identity import folder_name
from moe_bench.config.patterns import MOST_SHARDS, count_shards
from moe_bench.config.problems import Problem, show
from moe_bench.config.schema import Config


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


def spikes_may_be_skipped(cfg: Config) -> Iterator[Problem]:
    if cfg.recipe.spike is not None and not cfg.recipe.skip:
        what = "no step may be left out, so the first spike would end the run"
        yield Problem(
            f"recipe.spike={show(cfg.recipe.spike)}", what, "recipe.skip=5 too", ("recipe.spike", "recipe.skip")
        )


def loss_fits_the_labels(cfg: Config) -> Iterator[Problem]:
    if cfg.data.labels == "multi" and cfg.recipe.loss == "softmax":
        what = "the softmax loss knows one label a picture, and data.labels=multi"
        yield Problem("recipe.loss=softmax", what, "recipe.loss=sigmoid", ("recipe.loss", "data.labels"))


def fine_tuning_begins_with_weights(cfg: Config) -> Iterator[Problem]:
    if cfg.recipe.name == "finetune" and not (cfg.init.run or cfg.init.upcycle):
        what = "there is nothing to fine-tune: no finished run is named"
        yield Problem("recipe=finetune", what, "init.run=RUN", ("init.run", "init.upcycle", "recipe.name"))


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


def own_pictures_are_not_called_digits(cfg: Config) -> Iterator[Problem]:
    """Or a run on them would be taken for one on the pictures that come with moe-bench."""
    data = cfg.data
    named = data.path if data.path is not None else data.train
    if data.name != DIGITS or named is None or (data.path is not None and folder_name(data.path) == DIGITS):
        return
    setting = "data.path" if data.path is not None else "data.train"
    what = f"these pictures would be called {DIGITS}, as those that come with moe-bench"
    yield Problem(f"{setting}={show(named)}", what, f"data=shards {setting}={show(named)}", (setting, "data.name"))


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
    probe = cfg.probe
    if not probe.sets:
        return
    if not probe.shots:
        what = "a probe needs a number of pictures a class"
        yield Problem("probe.shots=[]", what, "probe.shots=[10]", ("probe.shots",))
    elif probe.policy == "heldout" and min(probe.shots) < 2:
        enough = [shots for shots in probe.shots if shots > 1] or [10]
        what = "it holds out a part of the shots to choose λ on, and of 1 there is none to hold out"
        yield Problem("probe.policy=heldout", what, f"probe.shots={show(enough)}", ("probe.policy", "probe.shots"))


RUN_RULES = (
    schedule_fits_the_steps,
    spikes_may_be_skipped,
    loss_fits_the_labels,
    fine_tuning_begins_with_weights,
    data_is_named_once,
    own_pictures_are_not_called_digits,
    patterns_are_bounded,
    probe_has_shots,
)
