"""From checked overrides to one nested dictionary: the only place where Hydra composes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moe_bench.config.groups import CONFIG_NAME, Groups, conf_dir, user_dirs
from moe_bench.config.launchers import LAUNCHERS
from moe_bench.config.origin import Origin
from moe_bench.config.overrides import parse, unknown_option
from moe_bench.config.problems import Problem

LAUNCHING = "hydra.launcher."
"""What a launcher's settings begin with."""


@dataclass(frozen=True)
class Composition:
    """What YAML and overrides amount to."""

    tree: dict[str, Any]  # the run's settings, interpolations resolved
    sweeps: bool  # does a file ask for a sweep?
    params: dict[str, str]  # what that sweep goes over
    launcher: str  # the option of hydra/launcher
    launching: dict[str, Any]  # its settings
    sweeper: str  # the option of hydra/sweeper
    choices: dict[str, str]  # the option of each group
    origin: Origin | None = None  # the weights to begin with, whose settings are among ``tree``


def compose_tree(
    overrides: Sequence[Override], groups: Groups, config_dir: str | None, problems: list[Problem]
) -> Composition | None:
    """Compose ``conf/config.yaml`` under the given overrides. None, and a problem, if that fails as a whole.

    Hydra composes the files; the settings are put on top here, known or not, for the schema to judge.
    """
    launching = [o for o in overrides if o.key_or_group.startswith(LAUNCHING)]
    choices = [o for o in overrides if _is_for_hydra(o, groups) and o not in launching]
    values = [o for o in overrides if o not in choices and o not in launching]
    try:
        files = _compose_files(tuple(str(o.input_line) for o in choices), config_dir, groups.stamps)
    except Exception as error:  # Hydra, OmegaConf and PyYAML each raise their own
        problems.append(_failure(error))
        return None
    return replace(
        files.alone,
        tree=_quickly(files, values) or _put_on_top(_without_hydra(files.composed), values, problems),
        launching=_launching(files.alone, launching, problems),
    )


def _failure(error: Exception) -> Problem:
    """Of Hydra's own groups what was typed is wrong, which nobody checked before; of others some file."""
    if isinstance(error, MissingConfigException) and (error.missing_cfg_file or "").startswith("hydra/"):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return unknown_option(f"{group}={option}", group, option, error.options or [])
    return Problem("the YAML files", _reason(error))


def compose_on(
    origin: Origin,
    asked: Composition,
    overrides: Sequence[Override],
    typed: Collection[str],
    groups: Groups,
    config_dir: str | None,
    problems: list[Problem],
) -> Composition | None:
    """``asked`` anew, with the settings that ``origin`` brings in place of the defaults.

    What was typed or a preset chose stays. A capacity says how much of it, and what else it is comes from ``origin``.
    """
    usual = _compose_files((), config_dir, groups.stamps).alone.choices
    chosen = []
    for group, settings in origin.brings().items():
        option, brought = asked.choices[group], _offer(group, settings)
        is_choice = group in typed or option != usual[group]
        if not is_choice:
            chosen.append(f"{group}={brought}")
        elif group == "capacity":
            chosen.append(f"{group}=[{brought},{_quoted(option)}]")
    ours = [parsed for line in chosen if (parsed := parse(line)) is not None]
    replaced = {override.key_or_group for override in ours}
    others = [override for override in overrides if override.key_or_group not in replaced]
    found = compose_tree([*ours, *others], groups, config_dir, problems)
    return None if found is None else replace(found, origin=origin)


def _offer(group: str, settings: Mapping[str, Any]) -> str:
    """Make ``settings`` an option of ``group`` for this process; its name."""
    name = f"of-{hashlib.sha256(repr(settings).encode()).hexdigest()[:16]}"
    ConfigStore.instance().store(name=name, group=group, node=dict(settings))
    return name


def _is_for_hydra(override: Override, groups: Groups) -> bool:
    return override.key_or_group in groups or override.is_hydra_override() or override.is_delete()


@dataclass(frozen=True)
class Files:
    """What YAML alone amounts to."""

    composed: DictConfig
    alone: Composition  # its tree is empty where an interpolation leads nowhere
    tied: frozenset[str]  # the settings that others refer to


@lru_cache(maxsize=256)
def _compose_files(lines: tuple[str, ...], config_dir: str | None, _stamps: tuple[tuple[str, int], ...]) -> Files:
    """Compose by Hydra, which takes some 50 ms; a sweep asks for few distinct sets of files, and often."""
    folders = ",".join(_quoted(f"file://{folder}") for folder in user_dirs(config_dir))
    search = [f"hydra.searchpath=[{folders}]"] if config_dir else []
    with initialize_config_dir(str(conf_dir()), job_name="moe-bench", version_base="1.3"):
        composed = compose(CONFIG_NAME, [*search, *lines], return_hydra_config=True)
    problems: list[Problem] = []
    tree, hydra = _put_on_top(_without_hydra(composed), [], problems), composed.hydra
    alone = Composition(
        tree={} if problems else tree,
        sweeps=hydra.mode is not None and hydra.mode.name == "MULTIRUN",
        params={str(k): str(v) for k, v in ((hydra.sweeper or {}).get("params") or {}).items()},
        launcher=str(hydra.runtime.choices.get("hydra/launcher")),
        launching=_raw(hydra.launcher or {}),
        sweeper=str(hydra.runtime.choices.get("hydra/sweeper")),
        choices={str(group): str(option) for group, option in hydra.runtime.choices.items()},
    )
    return Files(composed, alone, frozenset(_referred_to(_raw(_without_hydra(composed)))))


def _without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])


def _raw(section: Any) -> dict[str, Any]:
    """Plain containers, with interpolations as they are written."""
    raw: Any = OmegaConf.to_container(OmegaConf.create(section))
    return {str(key): value for key, value in raw.items()}


def _put_on_top(run: DictConfig, values: Sequence[Override], problems: list[Problem]) -> dict[str, Any]:
    """The settings ``run``, which is changed, with ``values`` among them and interpolations resolved."""
    for override in values:
        try:
            OmegaConf.update(run, override.key_or_group, override.value(), merge=True, force_add=True)
        except OmegaConfBaseException as error:
            problems.append(Problem(str(override.input_line), _reason(error)))
    return {str(k): _plain(run, k, str(k), problems) for k in run}


def _quickly(files: Files, values: Sequence[Override]) -> dict[str, Any] | None:
    """As ``_put_on_top``, some thirty times as fast; None unless each is a known setting that no other refers to."""
    tree = _copy(files.alone.tree)
    for override in values:
        *sections, name = override.key_or_group.split(".")
        section: Any = tree
        for key in sections:
            section = section.get(key) if isinstance(section, Mapping) else None
        known = isinstance(section, dict) and name in section and not isinstance(section[name], Mapping)
        value = override.value()
        if not known or _is_tied(override.key_or_group, files.tied) or not _is_literal(value):
            return None
        section[name] = value
    return tree or None


def _launching(alone: Composition, values: Sequence[Override], problems: list[Problem]) -> dict[str, Any]:
    """The settings of one of our launchers with ``values`` among them; those of others are left to Hydra."""
    if not values or alone.launcher not in LAUNCHERS:
        return alone.launching
    tree = _put_on_top(OmegaConf.create({"hydra": {"launcher": alone.launching}}), values, problems)
    found: dict[str, Any] = tree["hydra"]["launcher"]
    return found


def _is_tied(setting: str, tied: Iterable[str]) -> bool:
    return any(not name or f"{setting}.".startswith(f"{name}.") for name in tied)


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    """The sections anew; what they hold is only ever replaced."""
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _is_literal(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_literal(item) for item in value)
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "$" not in value)


def _referred_to(tree: Any) -> Iterator[str]:
    """The settings in plain interpolations (``${data.crop}``), however deep; "" for any other interpolation."""
    if isinstance(tree, Mapping | list):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _referred_to(part)
    elif isinstance(tree, str) and "${" in tree:
        plain = re.fullmatch(r"\$\{(\w+(?:\.\w+)*)\}", tree)
        yield plain[1] if plain else ""


def _plain(node: DictConfig | ListConfig, key: Any, place: str, problems: list[Problem]) -> Any:
    """``node[key]`` as plain containers; a reference that leads nowhere is a problem, and None."""
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        problems.append(Problem(f"{place}={node._get_node(key)}", _reason(error)))
        return None
    if isinstance(value, DictConfig):
        return {str(k): _plain(value, k, f"{place}.{k!s}", problems) for k in value}
    if isinstance(value, ListConfig):
        return [_plain(value, i, f"{place}.{i}", problems) for i in range(len(value))]
    return value


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _reason(error: BaseException) -> str:
    """The sentences of an error and of what caused it, without Hydra's help texts."""
    lines = str(error).splitlines() + (str(error.__cause__).splitlines() if error.__cause__ else [])
    told = ("full_key", "object_type", "To append")
    return "; ".join(s for line in lines if (s := line.strip()) and not s.startswith(told)) or type(error).__name__
