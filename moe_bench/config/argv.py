"""The command line before Hydra reads it: numbers as options of a group.

Hydra takes only words as a group's option, so ``capacity=2`` fails as typed, and there is no file for ``capacity=1.5``.
Both are rewritten here. The result means the same to Hydra and rewriting it again changes nothing, so ranks and cells that
inherit the rewritten command line compose the same configuration.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

VALUE_OF_GROUP = {"capacity": "capacity.factor"}
"""Groups whose options are numbers: which setting a number without a file is for."""


def normalise(words: Sequence[str], groups: Mapping[str, Collection[str]]) -> list[str]:
    """Rewrite ``capacity=2`` to ``capacity='2'`` and ``capacity=1.5`` to ``capacity.factor=1.5``; leave the rest alone.

    Args:
        words: the command line without the program's name.
        groups: option names by group.
    """
    return [_normalise_word(word, groups) for word in words]


def _normalise_word(word: str, groups: Mapping[str, Collection[str]]) -> str:
    key, equals, value = word.partition("=")
    group = key.lstrip("+")
    values = value.split(",")
    if not equals or group not in groups or not any(map(NUMBER.fullmatch, values)):
        return word
    all_numbers = all(map(NUMBER.fullmatch, values))
    if all_numbers and group in VALUE_OF_GROUP and not set(values) <= set(groups[group]):
        return f"{VALUE_OF_GROUP[group]}={value}"
    quoted = (f"'{v}'" if NUMBER.fullmatch(v) else v for v in values)
    return f"{key}={','.join(quoted)}"
