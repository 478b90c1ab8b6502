"""The command line before Hydra reads it: numbers as options of a group, and paths with braces.

Hydra takes only words as a group's option, so ``capacity=2`` fails as typed, and there is no file for ``capacity=1.5``;
and it reads the braces of ``data.train=DIR/train-{000..099}.tar`` as a dictionary. All are rewritten here. Rewriting
the result again changes nothing, so ranks and cells that inherit the command line compose the same configuration.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

VALUE_OF_GROUP = {"capacity": "capacity.factor"}
"""Groups whose options are numbers: which setting a number without a file is for."""

PATHS = ("data.path", "data.train", "data.val", "data.cache_dir", "probe.sets", "init.run", "init.upcycle", "runs_dir")
"""Settings whose values are paths, patterns and URLs, which Hydra's grammar does not foresee."""

PLAIN = re.compile(r"[\w/.:+%@*?|$\\-]*")
"""What Hydra reads as it stands."""

ITEM = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\{[^}]*\}|[^,])+""")
"""What stands between commas, where commas in quotes and braces do not count."""


def normalise(words: Sequence[str], groups: Mapping[str, Collection[str]]) -> list[str]:
    """Rewrite ``capacity=2`` to ``capacity='2'``, ``capacity=1.5`` to ``capacity.factor=1.5``, and quote odd paths.

    Args:
        words: the command line without the program's name.
        groups: option names by group.
    """
    return [_normalise_word(word, groups) for word in words]


def as_typed(word: str) -> str:
    """A normalised word as one types it in a shell: numbers have their quotes for Hydra only."""
    key, equals, value = word.partition("=")
    values = (bare if NUMBER.fullmatch(bare := v.strip("'")) else v for v in value.split(","))
    return shlex.quote(f"{key}{equals}{','.join(values)}")


def _normalise_word(word: str, groups: Mapping[str, Collection[str]]) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if equals and name in groups:
        return _number_of_group(key, name, value, groups[name])
    if equals and name in PATHS and "${" not in value:
        return f"{key}={_quote_paths(value)}"
    return word


def _number_of_group(key: str, group: str, value: str, options: Collection[str]) -> str:
    values = value.split(",")
    numbers = [v for v in values if NUMBER.fullmatch(v)]
    if group in VALUE_OF_GROUP and numbers == values and not set(values) <= set(options):
        return f"{VALUE_OF_GROUP[group]}={value}"
    quoted = (f"'{v}'" if v in numbers else v for v in values)
    return f"{key}={','.join(quoted)}"


def _quote_paths(value: str) -> str:
    if value.startswith("[") and value.endswith("]"):
        return "[" + ",".join(_quote_paths(item.strip()) for item in ITEM.findall(value[1:-1])) + "]"
    if value[:1] in ("'", '"') or PLAIN.fullmatch(value) or len(ITEM.findall(value)) > 1:  # quoted, fine, or a sweep
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
