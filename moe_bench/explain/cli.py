"""The verb ``explain``: of one trained run (``maps``), or of all routers on the same tokens (``routers``)."""

from __future__ import annotations

from moe_bench.explain import maps, routers


def run(argv: list[str]) -> int:
    """Runs ``moe-bench explain ARGV``; returns the exit code. Raises MoeBenchError."""
    return routers.run(argv) if argv[:1] == ["routers"] else maps.run(argv)
