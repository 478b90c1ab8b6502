"""The settings of runs in words: what a key is, also where a run left it out, and which are not the usual ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import yaml

from moe_bench.config.argv import as_typed
from moe_bench.config.groups import conf_dir
from moe_bench.config.problems import show
from moe_bench.report.collect import Run

ONLY_EXPERTS = ("capacity.", "model.experts", "model.moe_blocks", "model.expert_dropout", "model.identical_experts")
"""Settings that mean nothing to a dense model."""

CHOSEN = ("router", "model")
"""Groups whose option names a row, so that it has to say in what it is not that option."""


COMPARED = re.compile(r"router\b|capacity(\.factor)?=|seed=|hydra\.|force=")
"""Words of a command line that a claim's own runs say for themselves."""


def in_words(run: Run, keys: Sequence[str]) -> str:
    """ "recipe.lr=0.002, init.upcycle=none"; of a run without a probe "probe=none" is all that is said of it."""
    if "probe.sets" in keys and not any(key.startswith("probe.") for key in run.science):
        keys = sorted({"probe" if key.startswith("probe.") else key for key in keys})
    return ", ".join(f"{key}={'none' if key == 'probe' else _word(run, key)}" for key in keys)


def _word(run: Run, key: str) -> str:
    """A run's science leaves out what is at its default; run.json has it among all settings."""
    group, _, name = key.partition(".")
    settings = run.config.get(group)
    value = run.science.get(key, settings.get(name, "default") if isinstance(settings, dict) else "default")
    return "none" if value is None or value == [] else show(value)


def asked_alike(runs: Sequence[Run]) -> list[str]:
    """The words that asked for all of them, as one types them: data, model, recipe, but not what is compared."""
    words = dict.fromkeys(runs[0].overrides)
    return [as_typed(word) for word in words if not COMPARED.match(word) and all(word in run.overrides for run in runs)]


def differing(runs: Iterable[Run], belongs: Callable[[str], bool]) -> list[str]:
    """The settings in which they differ."""
    runs = list(runs)
    keys = sorted({key for run in runs for key in run.science if belongs(key)} - {"seed"})
    return [key for key in keys if len({json.dumps(run.science.get(key)) for run in runs}) > 1]


def unusual(run: Run) -> list[str]:
    """Settings in which its router and model are not as our file of that name has them; none where there is no file."""
    found = []
    for group in CHOSEN:
        settings = run.config.get(group)
        name = getattr(run, group)
        usual = _usual(group, name)
        if usual and isinstance(settings, dict) and settings.get("name") == name:
            keys = ((key, f"{group}.{key}", value) for key, value in settings.items() if key != "name")
            found += [full for key, full, value in keys if usual.get(key, value) != value or _added(run, full, usual)]
    return [key for key in found if means_something(run, key)]


def is_as_named(run: Run) -> bool:
    """Whether its router is as our file of that name has it, as far as there is one."""
    return not any(key.startswith("router.") for key in unusual(run))


def _added(run: Run, key: str, usual: dict[str, Any]) -> bool:
    """What the file does not mention is usually at its default, and then the run's science leaves it out."""
    return key in run.science and key.partition(".")[2] not in usual


def is_known(model: str) -> bool:
    """Whether it can be told what its usual settings are."""
    return bool(_usual("model", model))


def means_something(run: Run, key: str) -> bool:
    """To a run of this router."""
    return run.router != "dense" or not key.startswith(ONLY_EXPERTS)


@cache
def _usual(group: str, name: str) -> dict[str, Any]:
    """Of an option that comes with moe-bench; of one's own nothing is known, and the report needs no such file."""
    file = conf_dir() / group / f"{name}.yaml"
    if file.parent != conf_dir() / group or not file.is_file():
        return {}
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return read


def same_model(one: Run, other: Run) -> bool:
    """Whether they have the same model and room, so that a difference is that of their routers."""
    dense = "dense" in (one.router, other.router)
    return _room(one, dense) == _room(other, dense)


def _room(run: Run, dense: bool) -> dict[str, Any]:
    """Settings of the model and of the capacity but for the factor; to compare with a dense model, those it has."""
    apart = ONLY_EXPERTS if dense else ("capacity.factor",)
    return {k: v for k, v in run.science.items() if k.startswith(("model.", "capacity.")) and not k.startswith(apart)}
