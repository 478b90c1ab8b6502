"""A user's own code: routers and affinities that an installed package declares, or that a setting names."""

from __future__ import annotations

import os
import re
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from moe_bench.config.schema import RouterConfig, SparseRouterConfig
from moe_bench.errors import ConfigError
from moe_bench.guard import blaming
from moe_bench.routing.words import AFFINITIES

ROUTERS, OWN_AFFINITIES = "moe_bench.routers", "moe_bench.affinities"
"""The groups of entry points."""

IMPL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
"""The shape of ``router.impl``, "package.module:Class", and of an affinity, "package.module:function"."""


@dataclass(frozen=True)
class OwnCode:
    """What of a user's a run executes, and the setting that asks for it."""

    setting: str  # as typed: "router.impl=package.module:Class"
    where: str  # "package.module:name"

    @property
    def package(self) -> str:
        """The top-level package, or the module that stands alone."""
        return re.split(r"[.:]", self.where)[0]


@cache
def declared(group: str) -> dict[str, str]:
    """Name → "package.module:name" of what installed packages declare; none of it is imported."""
    return {point.name: point.value for point in entry_points(group=group)}


def is_own_affinity(word: str) -> bool:
    """Whether ``router.affinity`` names a function of the user's."""
    return bool(IMPL.fullmatch(word)) or word in declared(OWN_AFFINITIES)


def own_code(router: RouterConfig) -> OwnCode | None:
    """The user's code behind a router; None for one of ours."""
    if type(router) is RouterConfig:
        setting = f"router.name={router.name}" if router.impl is None else f"router.impl={router.impl}"
        return OwnCode(setting, router.impl or declared(ROUTERS).get(router.name, ""))
    if isinstance(router, SparseRouterConfig) and router.affinity not in AFFINITIES:
        where = declared(OWN_AFFINITIES).get(router.affinity, router.affinity)
        return OwnCode(f"router.affinity={router.affinity}", where)
    return None


def module_is_there(code: OwnCode) -> bool:
    """Whether its module can be found, installed or in the current directory. Nothing is imported."""
    name, *inner = code.where.partition(":")[0].split(".")
    try:
        spec = find_spec(name) or PathFinder.find_spec(name, [os.getcwd()])
    except ValueError:  # of a module that is running and was never looked for
        return name in sys.modules
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec is not None


def load_own(code: OwnCode) -> Any:
    """Import what ``code`` names.

    Raises:
        ConfigError: it is not there, or its module fails when it is imported.
    """
    module, _, name = code.where.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: it may be a file right here
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # a module of one's own may do anything
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = (
            "" if "importlib" in last.filename or last.filename == __file__ else f" at {last.filename}:{last.lineno}"
        )
        raise ConfigError(
            f"{code.setting} cannot be imported: {type(error).__name__}{place}: {error}. "
            "Write package.module:name of a module that Python finds here"
        ) from error


def blaming_own_code(router: RouterConfig) -> AbstractContextManager[None]:
    """While open, an error out of the user's code is told as such, and not as a bug."""
    own = own_code(router)
    return nullcontext() if own is None else blaming(own.setting, own.package)
