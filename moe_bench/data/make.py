"""Pictures → a data set folder: shards written by webdataset's TarWriter, and the meta.json that describes them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from moe_bench.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """One picture to write. ``suffix`` is its member's, without a dot."""

    key: str
    suffix: str
    data: bytes
    label: int


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name if the block succeeds and goes away if it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.making")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(target)
    except OSError as error:
        raise ConfigError(f"the data set could not be written to {target}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_split(folder: Path, split: str, samples: Iterable[Sample], per_shard: int) -> dict[str, Any]:
    """Writes ``split``-000000.tar, ... and returns what meta.json says of them. Same samples, same bytes."""
    remaining = iter(samples)
    shards: list[dict[str, Any]] = []
    while chunk := list(islice(remaining, per_shard)):
        path = folder / f"{split}-{len(shards):06d}.tar"
        _write_shard(path, chunk)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append({"file": path.name, "samples": len(chunk), "bytes": path.stat().st_size, "sha256": sha256})
    return {"samples": sum(shard["samples"] for shard in shards), "shards": shards}


def _write_shard(path: Path, samples: Sequence[Sample]) -> None:
    from webdataset import TarWriter

    with open(path, "wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write({"__key__": sample.key, sample.suffix: sample.data, "cls": str(sample.label).encode()})


def write_meta(folder: Path, name: str, classes: Sequence[str], splits: dict[str, dict[str, Any]]) -> None:
    """Writes meta.json: name, num_classes, class names, and the shards of each split with samples, bytes and sha256."""
    meta = {
        "name": name,
        "num_classes": len(classes),
        "classes": [{"index": index, "name": title} for index, title in enumerate(classes)],
        "splits": splits,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
