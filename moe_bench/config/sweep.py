"""What a command line asks for: one run or a grid of them, checked as a whole before the first starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from moe_bench.config.argv import VALUE_OF_GROUP, normalise
from moe_bench.config.compose import Composition
from moe_bench.config.groups import Groups, find_groups
from moe_bench.config.identity import run_id
from moe_bench.config.overrides import parse, values_of
from moe_bench.config.problems import Problem, raise_if_any
from moe_bench.config.schema import Config
from moe_bench.config.validate import draft, finish

MOST_CELLS = 100_000
"""Runs in a grid; beyond it is a slip, as in seed=range(0,1000000000)."""

FULLY_CHECKED = 32
"""Grids up to this size are checked cell by cell; in larger ones, every value is checked once."""


@dataclass(frozen=True)
class Plan:
    """A checked command line."""

    cells: tuple[tuple[str, ...], ...]  # the overrides of each run
    varying: frozenset[str]  # the settings in which the runs differ
    config: Config  # of the first run
    is_sweep: bool
    by_preset: bool  # a file asks for the sweep, so each cell must be told that it is none
    external: bool  # a launcher or sweeper from outside drives it
    repeated: int = 0  # cells left out, since each is the run of an earlier one


def plan(words: Sequence[str], config_dir: str | None = None, multirun: bool = False, single: bool = False) -> Plan:
    """Read a command line and check every run it asks for.

    Args:
        words: overrides as typed.
        config_dir: a folder of a user's own YAML.
        multirun: several values are several runs.
        single: this is one run, whatever a sweep preset says.

    Raises:
        ConfigError: listing all problems of all runs.
        SecurityError: the same, if an override asks for code or secrets.
    """
    groups, problems = find_groups(config_dir), list[Problem]()
    lines = normalise(words, groups)
    overrides, composition = draft(lines, groups, config_dir, problems)
    by_preset = composition is not None and composition.sweeps
    if composition is None or single or not (multirun or by_preset):
        config = finish(overrides, composition, problems)
        raise_if_any(problems)
        assert config is not None, "without a configuration there is a problem"
        return Plan((tuple(lines),), frozenset(), config, False, by_preset, False)

    external = composition.launcher != "local" or composition.sweeper != "basic"
    params = normalise([f"{key}={value}" for key, value in composition.params.items()], groups)
    axes = _combine(_axes(params, groups), _axes(lines, groups))
    cells = tuple(product(*axes.values())) if _few_enough(axes, problems) else ()
    checked = [] if external and composition.sweeper != "basic" else _cells_to_check(axes, cells)
    configs = [_check(cell, groups, config_dir, problems) for cell in checked or [_first(axes)]]
    distinct = _distinct(cells, configs) if 0 < len(cells) == len(checked) else cells
    problems += _launcher_fits(composition, configs[0])
    raise_if_any(problems)
    assert configs[0] is not None, "without a configuration there is a problem"
    varying = frozenset(key for key, values in axes.items() if len(values) > 1)
    return Plan(distinct, varying, configs[0], True, by_preset, external, len(cells) - len(distinct))


def _axes(lines: Iterable[str], groups: Groups) -> dict[str, tuple[str, ...]]:
    """Setting → the lines it takes in turn."""
    axes: dict[str, tuple[str, ...]] = {}
    for line in lines:
        override = parse(line)
        values = [] if override is None else list(islice(values_of(override), MOST_CELLS + 1))
        axes[line if override is None else override.key_or_group] = tuple(normalise(values, groups)) or (line,)
    return axes


def _combine(preset: dict[str, tuple[str, ...]], typed: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What is typed replaces what a preset sweeps over, also where capacity=1.5 has become capacity.factor=1.5."""
    kept = {key: values for key, values in preset.items() if VALUE_OF_GROUP.get(key) not in typed}
    return {**kept, **typed}


def _few_enough(axes: dict[str, tuple[str, ...]], problems: list[Problem]) -> bool:
    count = math.prod(map(len, axes.values()))
    if count > MOST_CELLS:
        longest = max(axes, key=lambda key: len(axes[key]))
        problems.append(Problem(longest, f"the grid has more than {MOST_CELLS:,} runs", "fewer values"))
    return count <= MOST_CELLS


def _first(axes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(values[0] for values in axes.values())


def _cells_to_check(axes: dict[str, tuple[str, ...]], cells: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """All of a small grid; of a large one, the first cell and those that differ from it in one setting."""
    if len(cells) <= FULLY_CHECKED:
        return list(cells)
    first = _first(axes)
    others = ((*first[:i], value, *first[i + 1 :]) for i, values in enumerate(axes.values()) for value in values[1:])
    return [first, *others]


def _check(cell: Sequence[str], groups: Groups, config_dir: str | None, problems: list[Problem]) -> Config | None:
    overrides, composition = draft(cell, groups, config_dir, problems)
    return finish(overrides, composition, problems)


def _distinct(cells: Sequence[tuple[str, ...]], configs: Sequence[Config | None]) -> tuple[tuple[str, ...], ...]:
    """The cells without those that are the run of an earlier one, as a dense model's at every other capacity."""
    found: dict[object, tuple[str, ...]] = {}
    for cell, config in zip(cells, configs, strict=True):
        found.setdefault(cell if config is None else (config.runs_dir, run_id(config)), cell)
    return tuple(found.values())


def _launcher_fits(composition: Composition, config: Config | None) -> Iterator[Problem]:
    """Hydra's own launcher runs all cells in one process, where the ranks of one cell would leak into the next."""
    if composition.launcher == "local" and composition.sweeper != "basic":
        what = f"hydra/sweeper={composition.sweeper} wants results back, and hydra/launcher=local has none for it"
        yield Problem("hydra/launcher=local", what, "hydra/launcher=basic")
    if composition.launcher == "basic" and config is not None:
        devices = config.runtime.devices * config.runtime.nodes
        if devices > 1:
            what = f"it runs all cells in one process, which {devices} devices do not survive"
            yield Problem("hydra/launcher=basic", what, "hydra/launcher=local")
