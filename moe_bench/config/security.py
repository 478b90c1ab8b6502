"""What a configuration may not say: code to call, and values to fetch from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moe_bench.config.problems import Problem

CODE_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
"""Keys by which Hydra's ``instantiate`` calls what a configuration names. Nothing here may: they are refused."""


def problems_of_line(line: str) -> Iterator[Problem]:
    """What is refused in one override, before anything reads it further."""
    key, _, value = line.partition("=")
    code = [word for word in CODE_KEYS if word in key.split(".") or f"{word}:" in value.replace(" ", "")]
    if code:
        yield _code(line, code[0])
    if calls_resolver(value):
        what = "a value that is looked up elsewhere (${...:...}) would be written into run.json, secrets too"
        yield Problem(line, what, "type the value itself", security=True)


def problems_of_tree(tree: Any, place: str = "") -> Iterator[Problem]:
    """What is refused in a composed or saved configuration, however deep."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            here = f"{place}.{key}" if place else str(key)
            if key in CODE_KEYS:
                yield _code(here, str(key))
            yield from problems_of_tree(value, here)
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from problems_of_tree(value, f"{place}.{i}")


def calls_resolver(value: str) -> bool:
    """Does the text call a resolver (``${oc.env:HOME}``) rather than point at another setting (``${data.path}``)?"""
    depth = 0
    for i, character in enumerate(value):
        if value.startswith("${", i):
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        elif character == ":" and depth:
            return True
    return False


def _code(place: str, key: str) -> Problem:
    return Problem(place, f"{key} names code to call, and configurations here call none", security=True)
