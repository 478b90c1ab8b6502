"""From checked overrides to one nested dictionary: the only place where Hydra composes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moe_bench.config.groups import conf_dir, user_dirs
from moe_bench.config.problems import Problem

CONFIG_NAME = "config"


@dataclass(frozen=True)
class Composition:
    """What YAML and overrides amount to."""

    tree: dict[str, Any]  # the run's settings, interpolations resolved
    sweeps: bool  # does it ask to be a sweep?
    params: dict[str, str]  # what the sweep goes over, as a sweep preset says it
    launcher: str  # the option of hydra/launcher
    sweeper: str  # the option of hydra/sweeper


def compose_tree(lines: Sequence[str], config_dir: str | None, problems: list[Problem]) -> Composition | None:
    """Compose ``conf/config.yaml`` under the given overrides. None, and a problem, if that fails as a whole."""
    folders = ",".join(_quoted(f"file://{folder}") for folder in user_dirs(config_dir))
    search = [f"hydra.searchpath=[{folders}]"] if config_dir else []
    try:
        with initialize_config_dir(str(conf_dir()), job_name="moe-bench", version_base="1.3"):
            composed = compose(CONFIG_NAME, [*search, *lines], return_hydra_config=True)
    except Exception as error:  # Hydra, OmegaConf and PyYAML each raise their own; any of them is the YAML's fault
        problems.append(Problem("the YAML files", _reason(error)))
        return None
    hydra = composed.hydra
    return Composition(
        tree={str(key): _plain(composed, key, str(key), problems) for key in composed if key != "hydra"},
        sweeps=hydra.mode is not None and hydra.mode.name == "MULTIRUN",
        params={str(k): str(v) for k, v in ((hydra.sweeper or {}).get("params") or {}).items()},
        launcher=str(hydra.runtime.choices.get("hydra/launcher")),
        sweeper=str(hydra.runtime.choices.get("hydra/sweeper")),
    )


def _plain(node: DictConfig | ListConfig, key: Any, place: str, problems: list[Problem]) -> Any:
    """``node[key]`` as plain containers; a reference that leads nowhere is a problem, and None."""
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        raw = OmegaConf.to_container(node, resolve=False)
        problems.append(Problem(f"{place}={raw[key]}", _reason(error), uses=()))  # type: ignore[index,call-overload]
        return None
    if isinstance(value, DictConfig):
        return {str(k): _plain(value, k, f"{place}.{k}", problems) for k in value}
    if isinstance(value, ListConfig):
        return [_plain(value, i, f"{place}.{i}", problems) for i in range(len(value))]
    return value


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _reason(error: BaseException) -> str:
    """The sentences of an error and of what caused it, without Hydra's help texts."""
    lines = str(error).splitlines() + (str(error.__cause__).splitlines() if error.__cause__ else [])
    kept = [line.strip() for line in lines if line.strip() and not line.strip().startswith(("full_key", "object_type"))]
    return "; ".join(kept) or type(error).__name__
