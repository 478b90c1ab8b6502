"""The verb ``explain``: of one trained run (``maps``), or of all routers on the same tokens (``routers``)."""

from __future__ import annotations

from pathlib import Path

from moe_bench.config.problems import did_you_mean
from moe_bench.errors import ConfigError
from moe_bench.explain import maps, routers


def run(argv: list[str]) -> int:
    """Runs ``moe-bench explain ARGV``; returns the exit code. Raises MoeBenchError."""
    word = argv[0] if argv else ""
    if word != "routers" and did_you_mean(word, ["routers"]) and not Path(word).exists():
        raise ConfigError(f"there is no folder {word}. Did you mean `moe-bench explain routers`?")
    return routers.run(argv) if argv[:1] == ["routers"] else maps.run(argv)
