"""A user's own routers: those that an installed package declares, and those that ``router.impl`` names."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points

ENTRY_POINT_GROUP = "moe_bench.routers"

IMPL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
"""The shape of ``router.impl``: "package.module:Class"."""


@cache
def router_entry_points() -> frozenset[str]:
    """Names of the routers that installed packages declare; none of them is imported."""
    return frozenset(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
