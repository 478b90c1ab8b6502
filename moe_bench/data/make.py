"""Labelled pictures → a data set folder: shards written by webdataset's TarWriter, and a meta.json that tells of them.

Sources are a folder with one sub-folder a class (or train, val and test folders of such), and torchvision data sets
that are on disk. Pictures are shuffled once, so that shards read in any order mix the classes.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from moe_bench.data.cache import replacing
from moe_bench.data.plan import permutation
from moe_bench.data.sources import SPLITS, read_meta
from moe_bench.data.tar import PICTURES
from moe_bench.errors import CheckpointError, ConfigError, DataError

PER_SHARD = 10_000


@dataclass(frozen=True)
class Sample:
    """One picture to write. ``suffix`` is its member's, without a dot."""

    key: str
    suffix: str
    data: bytes
    label: int


@dataclass(frozen=True)
class Origin:
    """What a data set is made from: class names, and for each split its samples, read when they are asked for."""

    classes: Sequence[str]
    splits: Mapping[str, Iterable[Sample]]


def write_dataset(out: Path, name: str, origin: Origin, per_shard: int = PER_SHARD) -> dict[str, Any]:
    """Writes or adds splits to the folder ``out`` and returns its meta.json. Same samples, same bytes.

    Nothing appears in ``out`` before all shards are whole. Raises ConfigError if a split is there already or the folder
    has other classes, DataError if a split has no pictures, CheckpointError if ``out`` cannot be written.
    """
    classes = [{"index": index, "name": title} for index, title in enumerate(origin.classes)]
    before = read_meta(out)
    _check_addable(out, before, classes, origin)
    with _scratch(out) as scratch:
        splits = {split: _write_split(scratch, split, iter(it), per_shard) for split, it in origin.splits.items()}
        for path in sorted(scratch.iterdir()):
            path.rename(out / path.name)
        splits = before.get("splits", {}) | splits
        meta = {"name": name, "num_classes": len(classes), "classes": classes, "splits": splits}
        with replacing(out / "meta.json") as temporary:
            temporary.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return meta


def _check_addable(out: Path, before: dict[str, Any], classes: list[dict[str, Any]], origin: Origin) -> None:
    there = [split for split in origin.splits if any(out.glob(f"{split}-*"))]
    if there:
        raise ConfigError(f"{out} already has {there[0]} shards; choose another --out or remove them")
    if before and before.get("classes") != classes:
        raise ConfigError(
            f"{out} is a data set of {before.get('num_classes')} classes, not of these {len(classes)}; "
            "choose another --out"
        )


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    scratch = out / f".making-{os.getpid()}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise CheckpointError(
            f"the shards could not be written to {out}: {error.strerror or error}. "
            "Free some space or mend the folder, or choose another --out; then type the same command again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_split(folder: Path, split: str, samples: Iterator[Sample], per_shard: int) -> dict[str, Any]:
    shards: list[dict[str, Any]] = []
    for number in range(10**6):
        path = folder / f"{split}-{number:06d}.tar"
        count = _write_shard(path, islice(samples, per_shard))
        if count == 0:
            path.unlink()
            break
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        shards.append({"file": path.name, "samples": count, "bytes": path.stat().st_size, "sha256": sha256})
    if not shards:
        raise DataError(f"there are no pictures for the {split} split")
    return {"samples": sum(shard["samples"] for shard in shards), "shards": shards}


def _write_shard(path: Path, samples: Iterable[Sample]) -> int:
    from webdataset import TarWriter

    count = 0
    with open(path, "wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write({"__key__": sample.key, sample.suffix: sample.data, "cls": str(sample.label).encode()})
            count += 1
    return count


def from_folder(folder: Path, split: str = "train", val_share: float = 0.0) -> Origin:
    """A folder of class folders, all of it as ``split``; or a folder of train, val or test folders of class folders.

    Args: val_share, the share of each class to set apart as "val" where the folder has no splits of its own.
    Raises ConfigError where there is no such folder, DataError where it has no class folders, and for a class that only
    a later split has.
    """
    if not folder.is_dir():
        raise ConfigError(f"--folder: there is no folder {str(folder)!r}. Looked for at {folder.absolute()}")
    inside = {path.name for path in folder.iterdir() if path.is_dir()}
    parted = inside and inside <= set(SPLITS)  # with other folders beside it, "train" is a class of vehicles
    roots = {name: folder / name for name in SPLITS if name in inside} if parted else {split: folder}
    classes = sorted(path.name for path in next(iter(roots.values())).iterdir() if path.is_dir())
    found = {name: _labelled(root, classes) for name, root in roots.items()}
    if val_share and list(roots) == [split]:
        found = _set_apart(found[split], split, val_share)
    return Origin(classes, {name: _files(pairs, classes) for name, pairs in found.items()})


def _labelled(root: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Every picture file under ``root`` with the number of its class, shuffled."""
    unknown = sorted({path.name for path in root.iterdir() if path.is_dir()} - set(classes))
    if unknown or not classes:
        what = (
            f"has the class folder {unknown[0]!r}, which the first split lacks" if unknown else "has no class folders"
        )
        raise DataError(f"{str(root)!r} {what}; pictures must lie in one sub-folder a class")
    pairs = [
        (path, label)
        for label, title in enumerate(classes)
        for path in sorted((root / title).rglob("*"))
        if path.suffix.lower().lstrip(".") in PICTURES and not path.name.startswith(".")
    ]
    return [pairs[place] for place in permutation(len(pairs), 0)]


def _set_apart(pairs: list[tuple[Path, int]], split: str, share: float) -> dict[str, list[tuple[Path, int]]]:
    """The first ``share`` of each class as val, the rest as ``split``; the pairs are in random order."""
    left = {label: round(share * count) for label, count in Counter(label for _, label in pairs).items()}
    parts: dict[str, list[tuple[Path, int]]] = {split: [], "val": []}
    for path, label in pairs:
        parts["val" if left[label] > 0 else split].append((path, label))
        left[label] -= 1
    return parts


def _files(pairs: Iterable[tuple[Path, int]], classes: Sequence[str]) -> Iterator[Sample]:
    """The files as they are, each decoded once to be sure that it is a picture."""
    from moe_bench.data.decode import decode

    for number, (path, label) in enumerate(pairs):
        try:
            data = path.read_bytes()
            decode(data)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise DataError(f"{path} {error}") from error
        yield Sample(_key(number, f"{classes[label]}-{path.stem}"), path.suffix.lower().lstrip("."), data, label)


def _key(number: int, origin: str) -> str:
    return f"{number:08d}-{re.sub('[^A-Za-z0-9_-]+', '_', origin)[:60]}"


def from_torchvision(name: str, root: Path, splits: Sequence[str]) -> Origin:
    """A data set of torchvision.datasets that is on disk under ``root``; pictures are written as PNG.

    Raises ConfigError for an unknown name, DataError if it is not on disk or has no class numbers.
    """
    loaded = {split: _load_torchvision(name, root, split) for split in splits}
    first = next(iter(loaded.values()))
    titles = getattr(first, "classes", None)
    if titles is None:
        titles = range(1 + max(_class_number(name, target) for one in loaded.values() for _, target in one))
    return Origin([str(title) for title in titles], {split: _pngs(name, one) for split, one in loaded.items()})


def _load_torchvision(name: str, root: Path, split: str) -> Any:
    from torchvision import datasets

    if name not in datasets.__all__:
        raise ConfigError(f"torchvision has no data set {name!r}; one of {', '.join(sorted(datasets.__all__))}")
    kind = getattr(datasets, name)
    wanted = inspect.signature(kind).parameters
    options: dict[str, Any] = {"train": split == "train"} if "train" in wanted else {"split": split}
    if "download" in wanted:
        options["download"] = False
    try:
        return kind(root, **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise DataError(f"torchvision's {name} ({split}) could not be read from {root}: {error}") from error


def _pngs(name: str, pictures: Any) -> Iterator[Sample]:
    for number, place in enumerate(permutation(len(pictures), 0).tolist()):
        try:
            image, target = pictures[place]
        except OSError as error:
            raise DataError(f"picture {place} of torchvision's {name} cannot be read: {error}") from error
        out = io.BytesIO()
        image.save(out, format="PNG")
        yield Sample(_key(number, f"{name}-{place}"), "png", out.getvalue(), _class_number(name, target))


def _class_number(name: str, target: Any) -> int:
    if not isinstance(target, int):
        raise DataError(f"torchvision's {name} labels pictures with {type(target).__name__}, not with a class number")
    return target
