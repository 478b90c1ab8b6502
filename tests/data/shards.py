"""Small real shards for the tests of this folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

Members = list[tuple[tarfile.TarInfo, bytes]]


def picture(seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str = "PNG") -> bytes:
    """An encoded picture of random pixels."""
    width, height = size
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    pixels = np.random.RandomState(seed).randint(256, size=shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels, mode=mode).save(out, format=form)
    return out.getvalue()


def member(name: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def sample(
    key: str, label: object, data: bytes | None = None, suffix: str = "png"
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The two members of a sample."""
    text = str(label).encode()
    return [member(f"{key}.{suffix}", picture() if data is None else data), member(f"{key}.cls", text)]


def write_tar(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, counts: Iterable[int], split: str = "train", classes: int = 5) -> list[str]:
    """Shards of the given numbers of pictures; picture n of all has seed and key n, and label n mod ``classes``."""
    paths, first = [], 0
    for number, count in enumerate(counts):
        path = folder / f"{split}-{number:06d}.tar"
        members = [m for n in range(first, first + count) for m in sample(f"k{n}", n % classes, picture(n))]
        paths.append(str(write_tar(path, members)))
        first += count
    return paths


def write_damaged(
    folder: Path, total: int, bad: dict[int, bytes], split: str = "train", per_shard: int = 4, classes: int = 5
) -> list[str]:
    """As ``write_shards``, of ``per_shard`` pictures each; those of ``bad`` have other bytes."""
    paths = []
    for number, first in enumerate(range(0, total, per_shard)):
        here = range(first, min(first + per_shard, total))
        members = [m for n in here for m in sample(f"k{n}", n % classes, bad.get(n, picture(n)))]
        paths.append(str(write_tar(folder / f"{split}-{number:06d}.tar", members)))
    return paths
