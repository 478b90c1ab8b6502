"""From overrides to a checked configuration, with all problems told at once.

Hydra's ConfigStore would check types too, but stops at the first mistake and accepts ``+router.typo=3``. So Hydra only
composes here, and ``convert`` and ``checks`` read the result as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from moe_bench.config.argv import normalise
from moe_bench.config.checks import check
from moe_bench.config.convert import Conversion, to_config
from moe_bench.config.groups import Groups, find_groups
from moe_bench.config.problems import Problem, raise_if_any
from moe_bench.config.schema import CapacityConfig, Config, DenseRouterConfig, SparseRouterConfig
from moe_bench.config.security import problems_of_tree

if TYPE_CHECKING:
    from moe_bench.config.compose import Composition
    from moe_bench.config.overrides import Overrides

LONGEST_WARMUP = 10_000
"""Steps of warm-up in all of the reference's recipes: what ``warmup=null`` never exceeds."""


def load(overrides: Sequence[str] = (), config_dir: str | None = None) -> Config:
    """The configuration of one run, as the command line would make it.

    Args:
        overrides: as typed, ``["router=soft", "capacity=1.5"]``.
        config_dir: a folder of a user's own YAML.

    Raises:
        ConfigError: listing all problems.
        SecurityError: the same, if an override asks for code or secrets.
    """
    groups, problems = find_groups(config_dir), list[Problem]()
    lines, composition = draft(normalise(overrides, groups), groups, config_dir, problems)
    config = finish(lines, composition, problems)
    raise_if_any(problems)
    assert config is not None, "without a configuration there is a problem"
    return config


def draft(
    lines: Sequence[str], groups: Groups, config_dir: str | None, problems: list[Problem]
) -> tuple[Overrides, Composition | None]:
    """Read the lines and compose those that name one value; what is wrong goes to ``problems``."""
    from moe_bench.config.compose import compose_on, compose_tree  # Hydra: only when something is composed
    from moe_bench.config.origin import find_origin
    from moe_bench.config.overrides import read

    overrides = read(lines, groups, problems)
    singles = [o for o in overrides.parsed if not o.is_sweep_override()]
    composition = compose_tree(singles, groups, config_dir, problems)
    init = composition.tree.get("init") if composition is not None else None
    origin = find_origin(init, problems) if isinstance(init, Mapping) else None
    if composition is not None and origin is not None:
        composition = compose_on(origin, composition, singles, overrides.keys(), groups, config_dir, problems)
    return overrides, composition


def finish(overrides: Overrides, composition: Composition | None, problems: list[Problem]) -> Config | None:
    """The configuration of one run from its draft, converted and checked. Of what was misspelt no more is said."""
    from moe_bench.config.origin import contradictions
    from moe_bench.config.overrides import values_of

    for sweep in (o for o in overrides.parsed if o.is_sweep_override()):
        remedy = f"add -m, or choose one: {next(values_of(sweep), '')}"
        problems.append(Problem(str(sweep.input_line), "several values are several runs", remedy))
    if composition is None:
        return None
    problems += problems_of_tree(composition.tree)
    conversion = Conversion(typed=overrides.keys())
    config = derive(to_config(composition.tree, conversion))
    origin = composition.origin
    config = replace(config, init=replace(config.init, source=origin.source if origin else None))
    problems += [p for p in conversion.problems if p.place.split(".")[0] not in overrides.spoiled]
    problems += check(config, conversion.wrong | overrides.spoiled)
    if origin is not None and not problems:
        problems += contradictions(config, origin)
    return config


def derive(config: Config) -> Config:
    """Fill in what follows from other settings and must be the same for everyone.

    That is the warm-up, the solver of the sparse plan, and the capacity of a dense model: it uses none, so whatever is
    asked for, in a grid perhaps, is one and the same run.
    """
    router = config.router
    if config.recipe.warmup is None:
        warmup = min(config.recipe.steps // 12, LONGEST_WARMUP)
        config = replace(config, recipe=replace(config.recipe, warmup=warmup))
    if isinstance(router, SparseRouterConfig) and router.affinity == "sparse" and router.solver is None:
        config = replace(config, router=replace(router, solver="adam"))
    if isinstance(router, DenseRouterConfig):
        config = replace(config, capacity=CapacityConfig())
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain containers, for run.json."""
    return asdict(config)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """The configuration that ``to_dict`` wrote. Settings that a later version added have their default.

    Raises:
        ConfigError: for keys, types or words that this version does not know.
        SecurityError: for keys that name code.
    """
    conversion = Conversion(problems=list(problems_of_tree(tree)))
    config = to_config(tree, conversion)
    raise_if_any(conversion.problems)
    return derive(config)
