"""The folders of YAML, read without Hydra: which groups there are, their options, and what each is for."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import moe_bench
from moe_bench.config.problems import did_you_mean
from moe_bench.errors import ConfigError

CONFIG_NAME = "config"

CONF_VARIABLE = "MOE_BENCH_CONF"
"""Environment variable that names a folder of a user's own YAML."""


class Groups(dict[str, dict[str, Path]]):
    """Group name → option name → its file, as ``{"router": {"soft": .../router/soft.yaml}}``."""

    @cached_property
    def stamps(self) -> tuple[tuple[str, int], ...]:
        """Our defaults and every option's file, and when each was changed: what a composition rests on."""
        files = (file for options in self.values() for file in options.values())
        return tuple((str(file), file.stat().st_mtime_ns) for file in (conf_dir() / f"{CONFIG_NAME}.yaml", *files))


def conf_dir() -> Path:
    """The folder of our own YAML: inside the package when installed from a wheel, else at the top of the checkout."""
    package = Path(moe_bench.__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def user_dirs(config_dir: str | None = None) -> list[Path]:
    """A user's own folders of YAML: ``--config-dir`` and ``$MOE_BENCH_CONF``.

    Raises:
        ConfigError: if one that was named is not there.
    """
    named = {"--config-dir": config_dir, f"${CONF_VARIABLE}": os.environ.get(CONF_VARIABLE)}
    for source, folder in named.items():
        if folder and not Path(folder).is_dir():
            raise ConfigError(f"no such folder: {source} names {folder!r}, looked for at {Path(folder).absolute()}")
    return [Path(folder).absolute() for folder in named.values() if folder]


def find_groups(config_dir: str | None = None) -> Groups:
    """Every option of every group, a user's own included; ours wins over one of the same name, as in Hydra."""
    groups = Groups()
    for folder in [conf_dir(), *user_dirs(config_dir)]:
        for file in sorted(folder.rglob("*.yaml")):
            group = file.parent.relative_to(folder).as_posix()
            if group != ".":
                groups.setdefault(group, {}).setdefault(file.stem, file)
    return groups


def meant(word: str, groups: Groups) -> str:
    """What someone may have meant by a word without "=", as one types it; empty if nothing is near."""
    found = {option: f"{group}={option}" for group in reversed(groups) for option in groups[group] if "/" not in group}
    found |= {group: f"{group}={next(iter(options))}" for group, options in groups.items() if "/" not in group}
    if word not in found and os.path.isdir(word) and any(Path(word).glob("*/*.yaml")):  # isdir: no word is an error
        return f"--config-dir {word}"
    if word.partition(".")[0] in groups and "." in word:
        return f"{word}=VALUE"
    return found.get(did_you_mean(word, found) or "", "")


def description(file: Path) -> str:
    """What an option is for: the first comment of its file."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").rstrip()
    return ""
