"""From what a user types to the list of shards: folders, brace patterns, wildcards, lists and URLs.

A data set is a folder with train-*.tar[.gz], val-*.tar[.gz] or test-*.tar[.gz] and perhaps a meta.json.
"""

from __future__ import annotations

import glob
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from moe_bench.errors import ConfigError, DataError, SecurityError

SCHEMES = ("http", "https", "s3", "gs")
MAX_SHARDS = 1_000_000
SPLITS = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
"""The names a split's shards may begin with; the first that is there wins."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SHARD_NAME = re.compile(r"-.+\.tar(\.gz)?")


def is_remote(shard: str) -> bool:
    """True for a URL, False for a local path."""
    return "://" in shard


def shown(shard: str) -> str:
    """A shard's name for messages: a URL loses its user, password and query, which may be secrets."""
    if not is_remote(shard):
        return shard
    parts = urlsplit(shard)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def expand_braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` → a-00.tar, a-01.tar, a-02.tar; ``{x,y}`` lists words. Leading zeros are kept.

    Raises ConfigError for more than MAX_SHARDS names (before making any), unbalanced braces and backward ranges.
    """
    pieces = _BRACES.split(pattern)  # text, inside, text, inside, ..., text
    if any("{" in text or "}" in text for text in pieces[::2]):
        raise ConfigError(f"{shown(pattern)!r} has unbalanced or nested braces; write {{000..031}} or {{a,b}}")
    choices = [_choices(inside, pattern) for inside in pieces[1::2]]
    count = math.prod(len(choice) for choice in choices)
    if count > MAX_SHARDS:
        raise ConfigError(f"{shown(pattern)!r} names {count:,} shards; at most {MAX_SHARDS:,} are taken")
    names = []
    for chosen in itertools.product(*choices):
        names.append("".join(itertools.chain.from_iterable(zip(pieces[::2], (*chosen, "")))))
    return names


class _Numbers(Sequence[str]):
    """The words of a numeric range, made when asked for: {0..999999999} must not fill memory before it is refused."""

    def __init__(self, first: str, last: str) -> None:
        self.range = range(int(first), int(last) + 1)
        self.width = len(first) if first.startswith("0") else 0

    def __len__(self) -> int:
        return len(self.range)

    def __getitem__(self, place: Any) -> Any:
        return f"{self.range[place]:0{self.width}d}"


def _choices(inside: str, pattern: str) -> Sequence[str]:
    found = _RANGE.fullmatch(inside)
    if not found:
        return inside.split(",")
    first, last = found.groups()
    if max(len(first), len(last)) > 15 or int(first) > int(last):
        raise ConfigError(f"the range {{{inside}}} in {shown(pattern)!r} does not run from a lower to a higher number")
    return _Numbers(first, last)


def resolve(source: str | Sequence[str]) -> list[str]:
    """The shards that patterns name, in the order given: lists, ``::`` between patterns, braces, wildcards, URLs.

    Raises SecurityError for ``pipe:``, ConfigError for what cannot be a pattern, DataError for a wildcard without a
    match. Whether a named shard exists is found out in ``cache.find``.
    """
    if not isinstance(source, str):
        shards = list(itertools.chain.from_iterable(resolve(one) for one in source))
        if not shards:
            raise ConfigError("the list of shards is empty")
        return shards
    patterns = re.split(r"::(?![\w.:]*\])", source)  # the "::" inside a URL's [IPv6] address stays
    return list(itertools.chain.from_iterable(_resolve_one(one.strip()) for one in patterns))


def _resolve_one(pattern: str) -> list[str]:
    if pattern.startswith("pipe:"):
        raise SecurityError(
            "shards given as 'pipe:' would run a shell command and are refused; "
            "download them and give their paths, or use http(s)://, s3:// or gs://"
        )
    if not pattern:
        raise ConfigError("an empty word cannot name shards; give a path, a pattern or a URL")
    if is_remote(pattern):
        return _resolve_url(pattern)
    names = [str(Path(name).expanduser()) for name in expand_braces(pattern)]
    return list(itertools.chain.from_iterable(_match(name) for name in names))


def _resolve_url(pattern: str) -> list[str]:
    scheme = pattern.split("://")[0]
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{shown(pattern)!r}: {scheme}:// is not read; one of {', '.join(SCHEMES)} or a local path is"
        )
    if glob.has_magic(urlsplit(pattern).path):
        raise ConfigError(f"{shown(pattern)!r}: wildcards match local files only; name remote shards with braces")
    return expand_braces(pattern)


def _match(name: str) -> list[str]:
    if glob.has_magic(name):
        found = sorted(glob.glob(name))
        if not found:
            raise DataError(f"no shard matches {name!r}; {_contents(Path(name).parent)}")
        return found
    if Path(name).is_dir():
        raise ConfigError(f"{name!r} is a folder; give it as data.path={name}, or name shards: '{name}/train-*.tar'")
    return [name]


def split_of(folder: str | Path, split: str) -> list[str]:
    """The shards of one split ("train", "val" or "test") of a data set folder, in the order of their names.

    "val" takes test-* where there is no val-*, and "test" the other way round. Raises DataError where the folder or the
    shards are missing, where shard numbers have gaps, and where meta.json lists other shards than are there.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"the data set folder {str(folder)!r} does not exist")
    for prefix in SPLITS[split]:
        shards = _shards_of(folder, prefix)
        declared = set(declared_shards(read_meta(folder), prefix))
        if shards or declared:
            _check_complete(folder, shards, declared)
            return [str(path) for path in shards]
    patterns = " or ".join(f"{prefix}-*.tar[.gz]" for prefix in SPLITS[split])
    raise DataError(f"{str(folder)!r} has no {split} shards: looked for {patterns}; {_contents(folder)}")


def splits_in(folder: Path) -> list[str]:
    """The splits that a folder has shards of. Raises DataError if it has none."""
    found = [split for split in SPLITS if any(_shards_of(folder, split))]
    return found or [split for split in ("train",) if split_of(folder, split)]


def _shards_of(folder: Path, prefix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{prefix}-*") if _SHARD_NAME.fullmatch(path.name[len(prefix) :]))


def read_meta(folder: Path) -> dict[str, Any]:
    """The data set's meta.json, or {} where there is none. Raises DataError if it is not a JSON object."""
    path = folder / "meta.json"
    if not path.exists():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not _is_meta(meta):
        raise DataError(
            f'{path} must hold an object, with "num_classes" (a whole number from 1) and '
            '"splits" {SPLIT: {"shards": [{"file": NAME, ...}]}} where it has them'
        )
    return dict(meta)


def _is_meta(meta: Any) -> bool:
    if not isinstance(meta, dict) or not isinstance(meta.get("splits", {}), dict):
        return False
    classes = meta.get("num_classes", 1)
    shards = [split.get("shards", []) if isinstance(split, dict) else None for split in meta.get("splits", {}).values()]
    entries_are_fit = all(
        isinstance(some, list) and all(isinstance(one, dict) and isinstance(one.get("file"), str) for one in some)
        for some in shards
    )
    return isinstance(classes, int) and classes > 0 and entries_are_fit


def declared_shards(meta: dict[str, Any], split: str | None = None) -> dict[str, dict[str, Any]]:
    """What meta.json says of its shards (of one split, or of all): file name → {"samples": ..., "bytes": ...}."""
    splits = meta.get("splits", {})
    chosen = splits.values() if split is None else [splits.get(split, {})]
    return {entry["file"]: entry for one in chosen for entry in one.get("shards", [])}


def _check_complete(folder: Path, shards: list[Path], declared: set[str]) -> None:
    present = {path.name for path in shards}
    if declared:
        missing, why = sorted(declared - present), f"meta.json lists {len(declared)}"
        extra = sorted(present - declared)
        if extra:
            raise DataError(
                f"{str(folder)!r} has {_some(extra)} that meta.json does not list; "
                "remove what does not belong, or make the data set again"
            )
    else:
        missing, why = _gaps(sorted(present)), f"{len(present)} are there"
    if missing:
        raise DataError(
            f"{str(folder)!r} lacks {_some(missing)} ({why}); fetch what is missing, "
            "or say explicitly what to use with data.train and data.val"
        )


def _gaps(names: list[str]) -> list[str]:
    """Names missing from a series of shard numbers; [] where the names do not form one series.

    A series runs from the lowest to the highest number there is, or from 0 to N-1 where names end in "-of-N".
    """
    found = [re.fullmatch(r"(.*?-)(\d+)((?:-of-(\d+))?\.tar(?:\.gz)?)", name) for name in names]
    series = {(m[1], len(m[2]), m[3], m[4]) for m in found if m}
    numbers = {int(m[2]) for m in found if m}
    if len(series) != 1:
        return []
    prefix, width, suffix, of = series.pop()
    first, last = (0, int(of) - 1) if of else (min(numbers), max(numbers))
    if last - first > MAX_SHARDS:
        return []
    return [f"{prefix}{n:0{width}d}{suffix}" for n in range(first, last + 1) if n not in numbers]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} shard{'s' * (len(names) > 1)}: {', '.join(names[:5])}{more}"


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return f"the folder {str(folder)!r} does not exist"
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return f"{str(folder)!r} is empty"
    return f"{str(folder)!r} has {len(names)} files: {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
