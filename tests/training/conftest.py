from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from miniature import CLASSES, VAL, Ran, Run, Splits, samples, train

from moe_bench.data.index import open_split
from moe_bench.data.make import Origin, write_dataset
from moe_bench.data.sources import split_of


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("shards")
    parts = {split: samples(count, seed=count) for split, count in (("train", 44), ("val", VAL))}
    write_dataset(folder, "colours", Origin([str(c) for c in range(CLASSES)], parts), per_shard=16)
    cache = tmp_path_factory.mktemp("cache")
    train, val = (open_split(split_of(folder, name), cache_dir=cache, progress=False) for name in ("train", "val"))
    return train, val


@pytest.fixture
def run(splits: Splits, tmp_path: Path) -> Run:
    """``run(name, ...)`` trains in a folder of that name under the test's own."""

    def fit(name: str = "run", **settings: Any) -> Ran:
        return train(splits, tmp_path / name, **settings)

    return fit
