"""What one may type after a run. Each command is one that does something; what does not compose is left out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from moe_bench import parent
from moe_bench.config import Config, load, run_id
from moe_bench.config.argv import as_typed
from moe_bench.errors import MoeBenchError

OTHERS = ("soft", "softmax_ec", "softmax_tc", "dense")
"""Routers to compare with, the most telling first; what one refuses, as a capacity of evaluation, another may take."""
SHOTS = (1, 5, 10)
FOLDER_FLAGS = ("--config-dir", "-cd")


def next_commands(cfg: Config, folder: Path, typed: Sequence[str]) -> list[tuple[str, str]]:
    """Commands, each with what it does. ``typed`` is the command line without the program's name.

    None for a run of a sweep, which says at its own end what may be typed.
    """
    if parent.is_cell():
        return []
    found = [the_table(cfg.runs_dir)]
    if (again := with_another_router(cfg, typed)) is not None:
        found.append((again, "the same with another router"))
    if cfg.probe.sets or cfg.data.probe:
        shots = [n for n in SHOTS if n > 1 or cfg.probe.policy != "heldout"]  # which needs two to hold out one
        words = f"moe-bench probe {shlex.quote(str(folder))} --shots {','.join(map(str, shots))}"
        found.append((words, "other few-shot settings"))
    return found


def the_table(runs_dir: str) -> tuple[str, str]:
    """The command that compares all runs of a folder, and what it does."""
    return f"moe-bench report {shlex.quote(runs_dir)}", "the table of all runs"


def with_another_router(cfg: Config, typed: Sequence[str]) -> str | None:
    """The command line of the same run with a router of another name; None if none of ``OTHERS`` fits."""
    if cfg.init.run:  # weights of one router do not fit every other
        return None
    config_dir, settings = _read(typed)
    flags = ["--run"] if {"--run", "-r"} & set(typed) else []  # of a sweep's preset the values beneath the sweep
    flags += ["--config-dir", shlex.quote(config_dir)] if config_dir else []
    for name in OTHERS:
        words = [f"router={name}", *settings]
        if name != cfg.router.name and _is_another(cfg, words, config_dir):
            return " ".join(["moe-bench", *flags, *map(as_typed, words)])
    return None


def _read(typed: Sequence[str]) -> tuple[str | None, list[str]]:
    """The user's folder of YAML, and the settings that another router may have too."""
    config_dir, settings, words = None, [], iter(typed)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in FOLDER_FLAGS:
            config_dir = value if equals else next(words, None)
        elif not word.startswith("-") and not _is_of_this_run(flag.lstrip("+~")):
            settings.append(word)
    return config_dir, settings


def _is_of_this_run(setting: str) -> bool:
    """Of its router, or that it should be done again."""
    return setting in ("router", "force") or setting.startswith("router.")


def _is_another(cfg: Config, words: Sequence[str], config_dir: str | None) -> bool:
    try:
        return run_id(load(words, config_dir)) != run_id(cfg)
    except MoeBenchError:
        return False
