"""How a trained model may be evaluated: capacity × images a group × choices of a token × order of pictures. No torch.

Weights stay what they are. C = round(c·T/E) slots of each expert follow from the capacity c of evaluation and the T
tokens of a group; with one image a group no prediction depends on its neighbours; another order gives other neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_bench.config import Config
from moe_bench.config.schema import DenseRouterConfig, SoftRouterConfig, token_choices
from moe_bench.errors import ConfigError
from moe_bench.model.sizes import tokens_per_image
from moe_bench.routing.capacity import slots_per_expert


@dataclass(frozen=True)
class Setting:
    """One way to evaluate a model."""

    capacity: float
    group_images: int  # images routed together
    k: int | None  # experts that a token chooses; None where tokens choose none
    order: int = 0  # of the pictures: 0 as the data set has them, n the n-th other one

    def slots(self, config: Config) -> int | None:
        """C; None without experts. Raises ValueError if below 1."""
        if isinstance(config.router, DenseRouterConfig):
            return None
        model, c = config.model, config.capacity
        tokens = self.group_images * tokens_per_image(model.image_size, model.patch, model.head)
        return slots_per_expert(tokens, model.experts, self.capacity, c.rounding, c.multiple_of)


@dataclass(frozen=True)
class Refused:
    """A setting that was asked for and cannot be."""

    setting: str
    why: str


def as_trained(config: Config) -> Setting:
    """How the run itself validated."""
    c = config.capacity
    group = 1 if isinstance(config.router, SoftRouterConfig) else c.group_images
    return Setting(c.factor if c.eval_factor is None else c.eval_factor, group, token_choices(config.router, c))


def settings(
    config: Config,
    capacities: Sequence[float],
    choices: Sequence[int] = (),
    *,
    one_image: bool = False,
    orders: int = 0,
    fixed_slots: bool = False,
) -> tuple[list[Setting], list[Refused]]:
    """Those to measure, that of the run first, and those that cannot be.

    Args:
        capacities: of evaluation. choices: k of token choice; none: the run's.
        one_image: also each image routed alone, at each capacity. orders: other orders of the pictures, likewise.
        fixed_slots: the run's own router has no capacity that could be set.

    Raises:
        ConfigError: ``choices`` for a router whose tokens choose nothing, or more than there are experts.
    """
    own = as_trained(config)
    if isinstance(config.router, DenseRouterConfig):
        return [own], [Refused("everything else", "a dense model has no router: there is nothing to vary")]
    _check_choices(config, choices)
    refused = []
    chosen: Sequence[int | None] = choices or [own.k]
    wanted = {own} | {replace(own, capacity=c, k=k) for c in capacities for k in chosen}
    if isinstance(config.router, SoftRouterConfig) or fixed_slots:
        refused = [Refused(f"capacity {s.capacity:g}", _why_fixed(config)) for s in _sorted(wanted - {own})]
        wanted = {own}
    if one_image and own.group_images == 1:
        refused.append(Refused("one image a group", "this run routes every image alone already"))
    elif one_image:
        wanted |= {replace(s, group_images=1) for s in wanted}
    found = []
    for setting in _sorted(wanted - {own}):
        try:
            setting.slots(config)
            found.append(setting)
        except ValueError as error:
            refused.append(Refused(words(setting, own), str(error)))
    others = [replace(s, order=n) for s in [own, *found] if s.group_images == own.group_images for n in _to(orders)]
    return [own, *found, *others], refused


def compared_with(setting: Setting, own: Setting) -> Setting | None:
    """What a setting is held against: itself without its change of groups or order, or else the run's own."""
    if setting == own:
        return None
    calm = replace(setting, group_images=own.group_images, order=0)
    return calm if calm != setting else own


def words(setting: Setting, own: Setting) -> str:
    """A setting for people."""
    if setting == own:
        return "as trained"
    said = [f"capacity {setting.capacity:g}"]
    said += [f"k = {setting.k}"] if setting.k != own.k else []
    said += ["one image a group"] if setting.group_images != own.group_images else []
    said += [f"other order {setting.order}"] if setting.order else []
    return ", ".join(said)


def _check_choices(config: Config, choices: Sequence[int]) -> None:
    if not choices:
        return
    if token_choices(config.router, config.capacity) is None:
        raise ConfigError(f"--k is of token choice; with {config.router.name} no token chooses its experts")
    if max(choices) > config.model.experts:
        raise ConfigError(f"--k {max(choices)}: a token chooses among {config.model.experts} experts")


def _why_fixed(config: Config) -> str:
    if isinstance(config.router, SoftRouterConfig):
        return "Soft MoE has learned parameters for every slot, so it has those that it was trained with"
    return f"the router {config.router.impl} keeps no .capacity that could be set"


def _sorted(several: set[Setting]) -> list[Setting]:
    """One image a group after the groups of training; each by capacity, then by k."""
    return sorted(several, key=lambda s: (-s.group_images, s.capacity, s.k or 0))


def _to(orders: int) -> range:
    return range(1, orders + 1)
