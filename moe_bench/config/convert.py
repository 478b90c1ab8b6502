"""From a nested dictionary to the frozen dataclasses: every key, type, word and range that is wrong, at once."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from moe_bench.config.launchers import Launcher
from moe_bench.config.limits import LIMITS, PRINTABLE
from moe_bench.config.plugins import ROUTERS, declared, is_own_affinity
from moe_bench.config.problems import Problem, did_you_mean, show
from moe_bench.config.schema import ROUTER_KINDS, WORDS, Config, RouterConfig, SparseRouterConfig
from moe_bench.config.security import CODE_KEYS

OUR_ROUTERS = (
    *("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft"),
    *("sigmoid_tc", "relu_tc", "hash", "random", "dense"),
)
"""Names of the routers that come with moe-bench: the paper's six, two more gates, two controls and the baseline."""

WRONG = object()
"""What stands for a value that could not be read."""


MOST_SECTIONS = 1024
_SECTIONS: dict[tuple[type, str, str], Any] = {}
"""Sections without a problem, by what they were made from."""


@dataclass
class Conversion:
    """The state of one conversion: what was wrong so far, and which settings must not be judged further."""

    typed: frozenset[str] = frozenset()  # settings that the user typed
    problems: list[Problem] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)

    def add(self, problem: Problem, setting: str) -> None:
        self.problems.append(problem)
        self.wrong.add(setting)


def to_config(tree: Mapping[str, Any], conversion: Conversion) -> Config:
    """Build the configuration. A setting that is wrong is told to ``conversion`` and has its default in the result."""
    tree = {**tree, "router": _router_tree(tree.get("router"), conversion.typed)}
    config: Config = _section(Config, tree, "", conversion)
    return config


def to_launcher(kind: type[Launcher], tree: Mapping[str, Any], conversion: Conversion) -> Launcher:
    """The settings of a launcher, as ``to_config``."""
    launcher: Launcher = _section(kind, tree, "hydra.launcher", conversion)
    return launcher


def router_class(router: Mapping[str, Any]) -> type[RouterConfig]:
    """Which class checks these options: by name, or the bare one where the router is the user's own code."""
    name = router.get("name")
    if router.get("impl") or (isinstance(name, str) and name in declared(ROUTERS)):
        return RouterConfig
    return ROUTER_KINDS.get(str(name), SparseRouterConfig)


def _router_tree(router: Any, typed: frozenset[str]) -> Any:
    """The router's settings. Code of one's own knows none of the preset below it, and is named after its class."""
    if not isinstance(router, Mapping) or router_class(router) is not RouterConfig:
        return router
    known = {f.name for f in fields(RouterConfig)}
    kept = {key: value for key, value in router.items() if key in known or f"router.{key}" in typed}
    if router.get("impl") and router.get("name") in OUR_ROUTERS:
        kept["name"] = str(router["impl"]).rpartition(":")[2]
    return kept


def _section_as_before(cls: type, tree: Any, place: str, conversion: Conversion) -> Any:
    """As ``_section``; the runs of a grid have most of their sections in common, and share them."""
    key = (cls, place, repr(tree))
    if key not in _SECTIONS:
        problems = len(conversion.problems)
        section = _section(cls, tree, place, conversion)
        if len(conversion.problems) > problems:
            return section
        if len(_SECTIONS) >= MOST_SECTIONS:
            _SECTIONS.clear()
        _SECTIONS[key] = section
    return _SECTIONS[key]


def _section(cls: type, tree: Any, place: str, conversion: Conversion) -> Any:
    """One dataclass from one dictionary. ``place`` is its dotted name, empty for the whole."""
    if not isinstance(tree, Mapping):
        tree = {} if tree is None else _not_a_section(tree, place, conversion)
    hints = _hints(cls)
    known = {f.name: f for f in fields(cls)}
    for key in tree:
        if key not in known:
            _unknown(str(key), tree[key], cls, place, conversion)
    values = {}
    for name, setting in known.items():
        here = f"{place}.{name}" if place else name
        kind = (
            router_class(tree[name] or {}) if here == "router" and isinstance(tree.get(name), Mapping) else hints[name]
        )
        if is_dataclass(kind):
            values[name] = _section_as_before(kind, tree.get(name), here, conversion)
        elif name in tree:
            value = _leaf(tree[name], kind, here, setting, conversion)
            if value is not WRONG:
                values[name] = value
    return cls(**values)


_hints = lru_cache(get_type_hints)  # by eval, which a large grid would spend most of its time in


def _not_a_section(tree: Any, place: str, conversion: Conversion) -> dict[str, Any]:
    conversion.add(Problem(f"{place}={tree!r}", f"{place} is a group of settings, not a value"), place)
    return {}


def _unknown(key: str, value: Any, cls: type, place: str, conversion: Conversion) -> None:
    here = f"{place}.{key}" if place else key
    if key in CODE_KEYS:
        return  # refused already, and for a better reason
    while isinstance(value, Mapping) and len(value) == 1:  # x: {y: 1} was typed x.y=1
        inner, value = next(iter(value.items()))
        here = f"{here}.{inner}"
    names = [f.name for f in fields(cls)] + ([] if place else ["experiment", "sweep", "debug"])
    close = did_you_mean(key, names)
    what = f"there is no setting {here or 'without a name'}" + (f"; {place} has {', '.join(names)}" if place else "")
    remedy = _rightly(f"{place}.{close}" if place else close, cls, value) if close else ""
    conversion.add(Problem(f"{here}={show(value)}", what, remedy), here)


def _rightly(setting: str, cls: type, value: Any) -> str:
    """The setting that was meant, with the value if it takes that, else with what it takes."""
    name = setting.rpartition(".")[2]
    kind, known = _hints(cls).get(name), {f.name: f for f in fields(cls)}
    if name not in known or is_dataclass(kind) or _leaf(value, kind, setting, known[name], Conversion()) is not WRONG:
        return f"{setting}={show(value)}"
    return f"{setting} takes {_name_of(kind)}: {_example(setting, value, kind, _default(known[name]))}"


def _leaf(value: Any, kind: Any, place: str, setting: Field[Any], conversion: Conversion) -> Any:
    """One value, of the right type, one of its words and within its limits; else WRONG."""
    default = _default(setting)
    converted = _read(value, kind)
    if converted is WRONG:
        what = (
            f"{place} is empty; it takes {_name_of(kind)}" if value == "" else f"{show(value)} is not {_name_of(kind)}"
        )
        conversion.add(Problem(f"{place}={show(value)}", what, _example(place, value, kind, default)), place)
        return WRONG
    if converted is None:
        return None
    words = WORDS.get(place)
    if words and converted not in words and not (place == "router.affinity" and is_own_affinity(converted)):
        close = did_you_mean(str(converted), words)
        remedy = f"{place}={close}" if close else ""
        own = ", or package.module:function of your own" if place == "router.affinity" else ""
        conversion.add(Problem(f"{place}={show(value)}", f"{place} is one of: {', '.join(words)}{own}", remedy), place)
        return WRONG
    limit = LIMITS.get(place, PRINTABLE)
    if not all(map(limit.holds, converted if isinstance(converted, list) else [converted])):
        remedy = _example(place, value, kind, default)
        conversion.add(Problem(f"{place}={show(value)}", f"{place} must be {limit.text}", remedy), place)
        return WRONG
    return converted


def _default(setting: Field[Any]) -> Any:
    return setting.default_factory() if setting.default_factory is not MISSING else setting.default


def _read(value: Any, kind: Any) -> Any:
    """The value as ``kind``, or WRONG. A number written as a word, or whole but with a point, counts as that number."""
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = [k for k in arguments if k is not type(None)]
        return None if value is None else _read(value, inner[0])
    if origin is list:
        items = [_read(item, arguments[0]) for item in value] if isinstance(value, list | tuple) else [WRONG]
        return WRONG if any(item is WRONG for item in items) else items
    if origin is dict:
        return dict(value) if isinstance(value, Mapping) else WRONG
    return value


def _read_bool(value: Any) -> Any:
    return value if isinstance(value, bool) else WRONG


def _read_int(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return WRONG
    return int(value) if value == int(value) else WRONG


def _read_float(value: Any) -> Any:
    try:
        number = WRONG if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return WRONG
    return number if isinstance(number, float) and math.isfinite(number) else WRONG


def _read_str(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else WRONG


_SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _read_bool, int: _read_int, float: _read_float, str: _read_str}

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    list[int]: "a list of whole numbers",
    list[float]: "a list of numbers",
    list[str]: "a list of words",
}


def _name_of(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [k for k in get_args(kind) if k is not type(None)]
        return f"{_name_of(inner[0])} or null"
    return _NAMES.get(kind, "key: value pairs in braces")


def _example(place: str, value: Any, kind: Any, default: Any) -> str:
    """An override that works: the value in a list if that is all it lacks, several as a sweep, else the default."""
    if isinstance(value, list) and value and all(_read(one, kind) is not WRONG for one in value):
        return f"-m {place}={','.join(map(show, value))}"
    if get_origin(kind) is list and not isinstance(value, list) and _read([value], kind) is not WRONG:
        return f"{place}=[{show(value)}]"
    return f"for example {place}={show(default)}" if default is not MISSING else ""
