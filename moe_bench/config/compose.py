"""From checked overrides to one nested dictionary: the only place where Hydra composes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moe_bench.config.groups import Groups, conf_dir, user_dirs
from moe_bench.config.problems import Problem

CONFIG_NAME = "config"


@dataclass(frozen=True)
class Composition:
    """What YAML and overrides amount to."""

    tree: dict[str, Any]  # the run's settings, interpolations resolved
    sweeps: bool  # does a file ask for a sweep?
    params: dict[str, str]  # what that sweep goes over
    launcher: str  # the option of hydra/launcher
    sweeper: str  # the option of hydra/sweeper


def compose_tree(
    overrides: Sequence[Override], groups: Groups, config_dir: str | None, problems: list[Problem]
) -> Composition | None:
    """Compose ``conf/config.yaml`` under the given overrides. None, and a problem, if that fails as a whole.

    Hydra composes the files; the settings are put on top here, known or not, for the schema to judge.
    """
    choices = [o for o in overrides if _is_for_hydra(o, groups)]
    files = tuple(file for options in groups.values() for file in options.values())
    try:
        composed = _compose_files(tuple(str(o.input_line) for o in choices), config_dir, _stamps(files))
    except Exception as error:  # Hydra, OmegaConf and PyYAML each raise their own; any of them is the files' fault
        problems.append(Problem("the YAML files", _reason(error)))
        return None
    hydra, run = composed.hydra, OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
    for override in (o for o in overrides if o not in choices):
        try:
            OmegaConf.update(run, override.key_or_group, override.value(), merge=True, force_add=True)
        except OmegaConfBaseException as error:
            problems.append(Problem(str(override.input_line), _reason(error)))
    return Composition(
        tree={str(k): _plain(run, k, str(k), problems) for k in run},
        sweeps=hydra.mode is not None and hydra.mode.name == "MULTIRUN",
        params={str(k): str(v) for k, v in ((hydra.sweeper or {}).get("params") or {}).items()},
        launcher=str(hydra.runtime.choices.get("hydra/launcher")),
        sweeper=str(hydra.runtime.choices.get("hydra/sweeper")),
    )


def _is_for_hydra(override: Override, groups: Groups) -> bool:
    return override.key_or_group in groups or override.is_hydra_override() or override.is_delete()


def _stamps(files: Sequence[Path]) -> tuple[tuple[str, int], ...]:
    """What the files are and when each was changed."""
    return tuple((str(file), file.stat().st_mtime_ns) for file in (conf_dir() / f"{CONFIG_NAME}.yaml", *files))


@lru_cache(maxsize=256)
def _compose_files(lines: tuple[str, ...], config_dir: str | None, _stamps: tuple[tuple[str, int], ...]) -> DictConfig:
    """Compose by Hydra, which takes some 50 ms; a sweep asks for few distinct sets of files, and often."""
    folders = ",".join(_quoted(f"file://{folder}") for folder in user_dirs(config_dir))
    search = [f"hydra.searchpath=[{folders}]"] if config_dir else []
    with initialize_config_dir(str(conf_dir()), job_name="moe-bench", version_base="1.3"):
        return compose(CONFIG_NAME, [*search, *lines], return_hydra_config=True)


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
