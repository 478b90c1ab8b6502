"""What a command line asks for: one run or a grid of them, checked as a whole before the first starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from moe_bench.config.argv import VALUE_OF_GROUP, normalise
from moe_bench.config.compose import LAUNCHING, Composition
from moe_bench.config.convert import Conversion, to_launcher
from moe_bench.config.groups import Groups, find_groups
from moe_bench.config.identity import run_id
from moe_bench.config.launchers import LAUNCHERS, Launcher, LocalLauncher
from moe_bench.config.overrides import Overrides, parse, values_of
from moe_bench.config.problems import Problem, raise_if_any
from moe_bench.config.schema import Config
from moe_bench.config.validate import draft, finish

MOST_CELLS = 20_000
"""Runs in a grid, each of which is checked; beyond it is a slip, as in seed=range(0,1000000000)."""


LAUNCHER_GROUP = "hydra/launcher"


@dataclass(frozen=True)
class Plan:
    """A checked command line."""

    cells: tuple[tuple[str, ...], ...]  # the overrides of each run
    configs: tuple[Config, ...]  # of each run; of the first only, under a sweeper from outside
    varying: frozenset[str]  # the settings in which the runs differ
    is_sweep: bool
    by_preset: bool  # a file asks for the sweep, so each cell must be told that it is none
    launcher: Launcher | None  # None: a launcher or sweeper from outside drives it
    repeated: int = 0  # cells left out, since each is the run of an earlier one

    @property
    def config(self) -> Config:
        """Of the first run."""
        return self.configs[0]

    @property
    def external(self) -> bool:
        return self.launcher is None


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
    if composition is None and multirun:
        raise_if_any(problems)  # what else there is to say of several values is of one run
    by_preset = composition is not None and composition.sweeps
    if composition is None or single or not (multirun or by_preset):
        if not single:
            problems += [_needs_multirun(line) for line in lines if _is_launching(line)]
        config = finish(overrides, composition, problems)
        raise_if_any(problems)
        assert config is not None, "without a configuration there is a problem"
        return Plan((tuple(lines),), (config,), frozenset(), False, by_preset, LocalLauncher())

    launcher = _launcher(composition, overrides, problems)
    params = normalise([f"{key}={value}" for key, value in composition.params.items()], groups)
    axes = _combine(_axes(params, groups), _axes([line for line in lines if not _is_launching(line)], groups))
    cells = tuple(product(*axes.values())) if _few_enough(axes, problems) else ()
    checked = cells if cells and composition.sweeper == "basic" else [_first(axes)]
    configs = [_check(cell, groups, config_dir, problems) for cell in checked]
    problems += _launcher_fits(composition, configs[0])
    raise_if_any(problems)
    found = [config for config in configs if config is not None]  # all of them: else there is a problem
    varying = frozenset(key for key, values in axes.items() if len(values) > 1)
    distinct = _distinct(cells, found) if composition.sweeper == "basic" else dict(zip(cells, found))
    repeated = len(cells) - len(distinct) if composition.sweeper == "basic" else 0
    return Plan(tuple(distinct), tuple(distinct.values()), varying, True, by_preset, launcher, repeated)


def _launcher(composition: Composition, overrides: Overrides, problems: list[Problem]) -> Launcher | None:
    """The launcher's settings, of which there can be one value each."""
    for override in overrides.parsed:
        if override.is_sweep_override() and _is_launching(str(override.input_line)):
            problems.append(Problem(str(override.input_line), "one launcher starts all runs of a sweep", "one value"))
    kind = LAUNCHERS.get(composition.launcher)
    if kind is None or composition.sweeper != "basic":
        return None
    conversion = Conversion()
    launcher = to_launcher(kind, composition.launching, conversion)
    problems += conversion.problems
    return launcher


def _is_launching(line: str) -> bool:
    """Is it about how runs are started, and not about any of them?"""
    return line.lstrip("+~").startswith((LAUNCHING, f"{LAUNCHER_GROUP}="))


def _needs_multirun(line: str) -> Problem:
    return Problem(line, "a launcher starts the runs of a sweep, also where it is only one", "add -m")


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


def _check(cell: Sequence[str], groups: Groups, config_dir: str | None, problems: list[Problem]) -> Config | None:
    overrides, composition = draft(cell, groups, config_dir, problems)
    return finish(overrides, composition, problems)


def _distinct(cells: Sequence[tuple[str, ...]], configs: Sequence[Config]) -> dict[tuple[str, ...], Config]:
    """The cells without those that are the run of an earlier one, as a dense model's at every other capacity."""
    found: dict[tuple[str, str], tuple[tuple[str, ...], Config]] = {}
    for cell, config in zip(cells, configs, strict=True):
        found.setdefault((config.runs_dir, run_id(config)), (cell, config))
    return dict(found.values())


def _launcher_fits(composition: Composition, config: Config | None) -> Iterator[Problem]:
    """Hydra's own launcher runs all cells in one process, where the ranks of one cell would leak into the next."""
    if composition.launcher in LAUNCHERS and composition.sweeper != "basic":
        ours = f"{LAUNCHER_GROUP}={composition.launcher}"
        what = f"hydra/sweeper={composition.sweeper} wants results back, and {ours} has none for it"
        yield Problem(ours, what, "hydra/launcher=basic")
    if composition.launcher == "basic" and config is not None:
        devices = config.runtime.devices * config.runtime.nodes
        if devices > 1:
            what = f"it runs all cells in one process, which {devices} devices do not survive"
            yield Problem("hydra/launcher=basic", what, "hydra/launcher=local")
