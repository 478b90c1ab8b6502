"""Overrides (``key=value``), each checked by itself before anything is composed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from moe_bench.config.argv import VALUE_OF_GROUP
from moe_bench.config.groups import Groups, meant
from moe_bench.config.plugins import ROUTERS, declared
from moe_bench.config.problems import Problem, did_you_mean
from moe_bench.config.security import problems_of_line

REQUIRED = ("router", "model", "capacity", "data", "probe", "recipe", "runtime", "logger")
"""Groups of which a run has exactly one option."""

INSTEAD_OF_NOTHING = {"router": "router=dense", "probe": "probe=none", "logger": "logger=none"}


@dataclass(frozen=True)
class Overrides:
    """What was typed and can be composed, in order."""

    parsed: tuple[Override, ...]
    spoiled: frozenset[str]  # groups and settings whose line was wrong: they cannot be judged further

    def keys(self) -> frozenset[str]:
        """The dotted names of the settings that were typed."""
        return frozenset(o.key_or_group for o in self.parsed)


def values_of(override: Override) -> Iterator[str]:
    """The lines that several values stand for, lazily; none for one value, or for a search over an interval."""
    if override.is_sweep_override() and override.is_discrete_sweep():
        yield from (f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator())


def read(lines: Sequence[str], groups: Groups, problems: list[Problem]) -> Overrides:
    """Parse each line and keep those that can be composed; what is wrong with the others goes to ``problems``."""
    parsed: list[Override] = []
    spoiled: set[str] = set()
    for line in lines:
        found = list(problems_of_line(line))
        override = None if found else parse(line)
        if override is not None:
            found += _problems_of_group(override, groups)
        elif not found:
            found.append(_unreadable(line, groups))
        if override is not None and not found:
            parsed.append(_entry_point(override, groups))
        else:
            spoiled.add(line.partition("=")[0].lstrip("+~"))
        problems += found
    return Overrides(tuple(parsed), frozenset(spoiled))


@lru_cache(maxsize=1 << 14)  # a grid has few distinct lines, each in many of its cells
def parse(line: str) -> Override | None:
    """The line by Hydra's grammar; None if that cannot read it."""
    try:
        return _parser().parse_override(line)
    except HydraException:
        return None


@cache  # making it takes longer than a line
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _unreadable(line: str, groups: Groups) -> Problem:
    key, equals, value = line.partition("=")
    if not equals:
        what = "this is no setting, since it is neither key=value nor a flag"
        return Problem(line, what, meant(line, groups) if line.strip("-+~") else "")
    mended = re.sub(",+", ",", value).strip(",")
    mended += "]" * (mended.count("[") - mended.count("]"))
    slip = mended not in ("", value) and parse(f"{key}={mended}") is not None
    remedy = f"{key}={mended}" if slip else f"quote it: '{key}=\"{value}\"'"
    return Problem(line, "the value cannot be read", remedy)


def _problems_of_group(override: Override, groups: Groups) -> Iterator[Problem]:
    group, line = override.key_or_group, str(override.input_line)
    if group not in groups or group.startswith("hydra/") or override.is_sweep_override():
        return  # Hydra's own groups have options that are no files of ours
    value = override.value()
    if group in REQUIRED and (override.is_delete() or value is None):
        yield Problem(line, f"a run needs a {group}", INSTEAD_OF_NOTHING.get(group, f"leave it out, or {group}=NAME"))
        return
    options = [] if value is None else value if isinstance(value, list) else [value]
    several = group in REQUIRED and len(options) > 1
    for option in options:
        name = str(option) if several or isinstance(option, str) else None
        if name is None or (name not in groups[group] and not _is_plugin(group, name)):
            yield unknown_option(line, group, str(option), groups[group])
    if several:
        asked = f"{group}={','.join(map(str, options))}"
        yield Problem(line, f"a run has one {group}, and several runs are a sweep", f"-m {asked}")


def unknown_option(line: str, group: str, option: str, options: Collection[str]) -> Problem:
    """``line`` asks for what is none of the ``options`` of ``group``."""
    parts = [known for known in options if option and option in known]
    close = did_you_mean(option, options) or (parts[0] if len(parts) == 1 else None)
    remedy = f"{group}={close}" if close else ""
    if group in VALUE_OF_GROUP:
        remedy = remedy or f"any number will do: {group}=1.5"
    return Problem(line, f"{group} has no option {option!r}; it has {', '.join(options)}", remedy)


def _is_plugin(group: str, option: str) -> bool:
    return group == "router" and option in declared(ROUTERS)


def _entry_point(override: Override, groups: Groups) -> Override:
    """``router=mine``, where ``mine`` is an installed router without YAML, only sets the name."""
    if override.key_or_group == "router" and isinstance(name := override.value(), str) and name not in groups["router"]:
        return _parser().parse_override(f"router.name={name}")
    return override
