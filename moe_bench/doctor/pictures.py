"""Whether the shards that runs and their probes name are there: all local ones, the first and last of remote ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from moe_bench.config import Config
from moe_bench.config.here import DIGITS
from moe_bench.config.schema import DataConfig
from moe_bench.data.cache import find
from moe_bench.data.sources import is_remote, resolve, shown, split_of
from moe_bench.doctor.finding import OFF, OK, Finding, in_time
from moe_bench.errors import MoeBenchError
from moe_bench.monitor.units import size

Source = str | Sequence[str]


def pictures(configs: list[Config]) -> list[Finding]:
    """A line for each split of each data set."""
    named = dict.fromkeys(_named(configs))
    return [in_time(what, partial(_look, what, source, split)) for what, source, split in named]


def _named(configs: list[Config]) -> list[tuple[str, Source, str | None]]:
    """(what, folder or shards, split); the split is None where shards are named one by one."""
    named: list[tuple[str, Source, str | None]] = []
    for config in configs:
        named += [_split(config.data, "train", config.data.train), _split(config.data, "val", config.data.val)]
        for folder in config.probe.sets:
            named += [("probe", folder, split) for split in (("train", "test") if folder != DIGITS else (None,))]
    return named


def _split(data: DataConfig, split: str, source: Source | None) -> tuple[str, Source, str | None]:
    if source is None:
        return split, str(data.path), split
    return split, source if isinstance(source, str) else tuple(source), None


def _look(what: str, source: Source, split: str | None) -> Finding:
    if source == DIGITS:
        return Finding(OK, what, "digits, which come with moe-bench")
    try:
        shards = resolve(source) if split is None else split_of(str(source), split)
        remote = any(map(is_remote, shards))
        found = find(list(dict.fromkeys((shards[0], shards[-1]))) if remote else shards)
    except (MoeBenchError, OSError) as error:
        return Finding(OFF, what, str(error))
    number = f"{len(shards):,} shard{'s' * (len(shards) != 1)}"
    if remote:
        return Finding(OK, what, f"{number} from {shown(shards[0])}: the first and the last answer")
    return Finding(OK, what, f"{number} from {shards[0]}: {size(sum(shard.size or 0 for shard in found))}")
