"""The embedded data set: real handwritten digits that need no download.

scikit-learn carries 1,797 scans of 8×8 pixels. They are split once, by class, into four sets of scans that never mix:
pictures of two digits to learn from (100 classes) and to validate on, and single digits to train and test the probe on.
Each scan is doubled in size and put into the left or right half at a random height, so that raw pixels say little of
a digit and a trained network much.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from moe_bench.data.cache import cache_folder
from moe_bench.data.make import Origin, Sample, write_dataset

VERSION = "digits-v1"
CANVAS = 32  # pixels a side
GLYPH = 16  # pixels a side of an enlarged scan
SEED = 0
SHARES = {"train": 0.58, "val": 0.14, "few_train": 0.14, "few_test": 0.14}  # of the scans of each class
PICTURES = {"train": 10_000, "val": 1_000, "few_train": 500, "few_test": 500}
PER_SHARD = 2_500

Scans = dict[str, list[NDArray[np.float64]]]
"""Part of the split → for each digit its scans (n, 8, 8), values 0 to 16."""


def ensure_upstream(cache_dir: str | Path | None = None, progress: bool = True) -> Path:
    """The folder of two-digit pictures (100 classes; train and val), made on first use."""
    return _ensure(cache_dir, progress) / "digits"


def ensure_downstream(cache_dir: str | Path | None = None, progress: bool = True) -> Path:
    """The folder of single digits (10 classes; train and test), from scans that the other folder does not use."""
    return _ensure(cache_dir, progress) / "digits-single"


def _ensure(cache_dir: str | Path | None, progress: bool) -> Path:
    target = cache_folder(cache_dir) / VERSION
    if not target.is_dir():
        with FileLock(target.with_name(f"{VERSION}.lock")):
            if not target.is_dir():
                if progress:
                    print(f"making the embedded digits data set in {target}", file=sys.stderr, flush=True)
                _make(target)
    return target


def _make(target: Path) -> None:
    scans = split_scans()
    upstream = Origin([f"{n:02d}" for n in range(100)], {part: _pairs(scans, part) for part in ("train", "val")})
    downstream = Origin(
        [str(digit) for digit in range(10)],
        {"train": _singles(scans, "few_train"), "test": _singles(scans, "few_test")},
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{VERSION}-") as scratch:
        whole = Path(scratch) / VERSION
        write_dataset(whole / "digits", "digits", upstream, PER_SHARD)
        write_dataset(whole / "digits-single", "digits-single", downstream, PER_SHARD)
        whole.rename(target)


def split_scans() -> Scans:
    """The scans of each part and digit; the parts are disjoint, and every one has its share of every digit."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.RandomState(SEED).permutation(len(data.target))  # RandomState's stream never changes
    parts: Scans = {part: [] for part in SHARES}
    for digit in range(10):
        mine = order[data.target[order] == digit]
        ends = np.round(np.cumsum(list(SHARES.values())) * len(mine)).astype(int)
        for part, chosen in zip(SHARES, np.split(mine, ends[:-1])):
            parts[part].append(data.images[chosen])
    return parts


def _pairs(scans: Scans, part: str) -> Iterator[Sample]:
    """Two digits side by side, class 10 · left + right: every class equally often, in random order."""
    random = _random(part)
    labels = random.permutation(np.arange(PICTURES[part]) % 100)
    for number, label in enumerate(labels):
        canvas = np.zeros((CANVAS, CANVAS))
        for side, digit in enumerate(divmod(int(label), 10)):
            _draw(canvas, scans[part][digit], side, random)
        yield Sample(f"{part}-{number:06d}", "png", png(canvas), int(label))


def _singles(scans: Scans, part: str) -> Iterator[Sample]:
    """One digit in either half: every class equally often, in random order."""
    random = _random(part)
    labels = random.permutation(np.arange(PICTURES[part]) % 10)
    for number, label in enumerate(labels):
        canvas = np.zeros((CANVAS, CANVAS))
        _draw(canvas, scans[part][label], random.randint(2), random)
        yield Sample(f"{part}-{number:06d}", "png", png(canvas), int(label))


def _random(part: str) -> np.random.RandomState:
    return np.random.RandomState([SEED, list(SHARES).index(part)])


def _draw(canvas: NDArray[np.float64], scans: NDArray[np.float64], side: int, random: np.random.RandomState) -> None:
    """One of the scans, enlarged, in the left (0) or right (1) half at a random height."""
    scan = scans[random.randint(len(scans))]
    top, left = random.randint(CANVAS - GLYPH + 1), side * GLYPH
    canvas[top : top + GLYPH, left : left + GLYPH] = enlarge(scan)


def enlarge(scan: NDArray[np.float64]) -> NDArray[np.float64]:
    """A scan (8, 8) of values 0 to 16 → (GLYPH, GLYPH) of 0 to 255, bilinear between pixel centres."""
    centres = (np.arange(GLYPH) + 0.5) * 8 / GLYPH - 0.5
    weights = np.maximum(0, 1 - np.abs(centres.clip(0, 7)[:, None] - np.arange(8)))  # (GLYPH, 8)
    return weights @ scan @ weights.T * (255 / 16)


def png(canvas: NDArray[np.float64]) -> bytes:
    """A grey PNG, stored uncompressed so that its bytes do not depend on the version of zlib."""
    out = io.BytesIO()
    Image.fromarray(canvas.round().astype(np.uint8)).save(out, format="PNG", compress_level=0)
    return out.getvalue()
