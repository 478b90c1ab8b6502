"""index.json: what an index holds, for people and scripts: pictures, bytes, label range and classes of each shard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from moe_bench.data.cache import cache_folder, replacing
from moe_bench.data.index import ShardIndex
from moe_bench.data.sources import is_remote


def describe(index: ShardIndex) -> dict[str, dict[str, Any]]:
    """Shard name → {"samples", "bytes" (of its pictures), "labels": [lowest, highest], "classes" (number seen)}."""
    ends = np.cumsum(index.counts)
    entries = {}
    for shard, first, end in zip(index.shards, ends - index.counts, ends):
        seen = np.unique(index.labels[first:end])
        seen = seen[seen >= 0]
        entries[os.path.basename(shard)] = {
            "samples": int(end - first),
            "bytes": int(index.sizes[first:end].sum(dtype=np.int64)),
            "labels": [int(seen[0]), int(seen[-1])],
            "classes": len(seen),
        }
    return entries


def write_summary(index: ShardIndex, cache_dir: str | Path | None = None) -> Path:
    """Adds the shards to the index.json beside them, or in the cache where that folder is not ours to write."""
    cache = cache_folder(cache_dir)
    folders = {os.path.dirname(os.path.abspath(shard)) for shard in index.shards if not is_remote(shard)}
    beside = len(folders) == 1 and _is_writable(next(iter(folders)))
    target = Path(folders.pop()) / "index.json" if beside else cache / "index" / f"{index.fingerprint[:16]}.json"
    with FileLock(cache / "index" / "summary.lock"), replacing(target) as temporary:
        shards = _read(target) | describe(index)
        temporary.write_text(json.dumps({"version": 1, "shards": dict(sorted(shards.items()))}, indent=1) + "\n")
    return target


def _is_writable(folder: str) -> bool:
    """By its mode too: root may write anywhere, but a folder without write bits is meant to be left alone."""
    return bool(os.stat(folder).st_mode & 0o222) and os.access(folder, os.W_OK)


def _read(path: Path) -> dict[str, Any]:
    """The shards told of so far; {} where there is no such file or it is not ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["shards"]) if content["version"] == 1 else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
