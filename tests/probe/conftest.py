"""Small real data sets for the probe: pictures whose colours tell the class, from a little to a lot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moe_bench.data.make import Origin, Sample, write_dataset
from moe_bench.probe.score import ProbeSet, open_sets

SIZE, CLASSES = 8, 3


def samples(count: int, seed: int, signal: int) -> list[Sample]:
    """Noise in which the colour of the class is brighter by ``signal``; the file order is random over classes."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        label = int(rng.integers(CLASSES))
        pixels = rng.integers(0, 120, (SIZE, SIZE + 4, 3), dtype=np.uint8)  # not square
        pixels[:, :, label] += signal
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format="PNG")
        made.append(Sample(f"{number:05d}", "png", out.getvalue(), label))
    return made


def make_set(folder: Path, signal: int = 14, train: int = 60, test: int = 50) -> Path:
    parts = {"train": samples(train, 1, signal), "test": samples(test, 2, signal)}
    write_dataset(folder, folder.name, Origin([str(c) for c in range(CLASSES)], parts), per_shard=32)
    return folder


@pytest.fixture(scope="session")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "easy")


@pytest.fixture(scope="session")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "hard", signal=4)


@pytest.fixture(scope="session")
def sets(easy: Path, hard: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ProbeSet]:
    return open_sets([str(easy), str(hard)], tmp_path_factory.mktemp("cache"), progress=False)
