"""Which runs are the same run: the settings that decide its result, their hash, and the name of its folder.

The same science in another place, on other devices or with other logging has the same id, so typing a command again
resumes or skips. A setting at its default is left out, so that adding one later keeps the ids of older runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import PurePosixPath
from typing import Any

from moe_bench.config.schema import Config, DataConfig

ID_VERSION = 1
"""Raise it when a default or the meaning of a setting changes: every id changes with it."""

SCIENCE: dict[str, tuple[str, ...]] = {
    "router": (),
    "model": ("name",),
    "capacity": (),
    "init": ("source",),
    "data": ("path", "train", "val", "probe", "max_pixels", "on_error", "skip_limit", "cache_dir"),
    "probe": ("name", "every"),
    "recipe": ("name", "eval_every", "checkpoint_every"),
}
"""The groups that decide a result, each with the settings that do not: places, labels, and how often one looks."""


def science(cfg: Config) -> dict[str, Any]:
    """The settings that decide the result, as dotted names; those at their default are left out."""
    found: dict[str, Any] = {"seed": cfg.seed}
    for group, beside_the_point in SCIENCE.items():
        section = getattr(cfg, group)
        for field in fields(section):
            value = getattr(section, field.name)
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if field.name not in beside_the_point and value != default:
                found[f"{group}.{field.name}"] = value
    if cfg.data.on_error == "skip" and cfg.data.max_pixels != DataConfig.max_pixels:
        found["data.max_pixels"] = cfg.data.max_pixels  # it decides which pictures are skipped
    found["router.name"], found["data.name"] = cfg.router.name, data_name(cfg.data)
    for weights in ("init.run", "init.upcycle"):
        if weights in found:
            found[weights] = cfg.init.source  # what they are, wherever they lie
    if "probe.sets" in found:
        found["probe.sets"] = [folder_name(s) for s in cfg.probe.sets]
    for split in ("train", "val"):
        if source := getattr(cfg.data, split):
            found[f"data.{split}"] = shard_names(source)
    return dict(sorted(found.items()))


def run_id(cfg: Config) -> str:
    """``<router>-<model>-c<capacity>-<data>-s<seed>-<hash8>``, the name of the run's folder too."""
    canonical = json.dumps({"id_version": ID_VERSION, **numbers(science(cfg))}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    parts = (cfg.router.name, cfg.model.name, f"c{cfg.capacity.factor:g}", data_name(cfg.data), f"s{cfg.seed}", digest)
    return "-".join(map(slug, parts))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two ``science`` dictionaries, a line each: ``recipe.lr: 0.001 → 0.0003``."""
    absent = "default"
    pairs = ((key, old.get(key, absent), new.get(key, absent)) for key in sorted({*old, *new}))
    return [f"{key}: {a} → {b}" for key, a, b in pairs if numbers(a) != numbers(b)]


def data_name(data: DataConfig) -> str:
    """What the data are called: as said, or after their folder."""
    if data.name:
        return data.name
    first = data.train[0] if isinstance(data.train, list) and data.train else data.train
    if data.path:
        return folder_name(data.path)
    return PurePosixPath(_without_secrets(str(first))).parent.name or "data"


def shard_names(source: str | list[str]) -> list[str]:
    """What shards or their patterns are called, wherever they lie: other shards are other data."""
    sources = source if isinstance(source, list) else [source]
    return [folder_name(_without_secrets(s)) for s in sources]


def _without_secrets(shard: str) -> str:
    """A URL without the query, which may hold a key, and without the login before its host."""
    return re.sub(r"://[^/]*@", "://", shard.partition("?")[0]) if "://" in shard else shard


def folder_name(path: str) -> str:
    """The last part of a path or URL."""
    return PurePosixPath(path.replace("\\", "/")).name or "data"


def slug(text: str) -> str:
    """Letters, digits, points, hyphens and underscores only; never hidden, never long."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:64] or "x"


def numbers(value: Any) -> Any:
    """The value with 2.0 for 2 and 0.0 for -0.0, so that how a number was typed does not matter."""
    if isinstance(value, Mapping):
        return {str(k): numbers(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(v) for v in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(value) + 0.0
