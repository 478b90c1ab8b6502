"""Real pictures, where they are at hand beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moe_bench.data.index import open_split
from moe_bench.data.loader import eval_loader
from moe_bench.data.sources import read_meta, split_of

SETS = Path(__file__).parents[3] / "shared/data"

pytestmark = pytest.mark.skipif(not SETS.is_dir(), reason=f"the real picture sets are not at {SETS}")


@pytest.mark.parametrize(("name", "split"), [("cifar10", "train"), ("cifar10", "test"), ("imagenette-s", "test")])
def test_counts_and_labels_are_those_of_the_sets_own_books(name: str, split: str) -> None:
    index = open_split(split_of(SETS / name, split), progress=False)
    books = read_meta(SETS / name)["splits"][split]
    assert len(index) == books["samples"]
    assert np.bincount(index.labels[:, 0]).tolist() == books["per_class"]


def test_colour_and_grey_pictures_come_as_three_channels() -> None:
    index = open_split(split_of(SETS / "imagenette-s", "test"), progress=False)
    grey = 0
    for batch in eval_loader(index, range(500), image_size=32, batch=100, workers=0):
        assert batch["image"].shape == (100, 3, 32, 32)
        grey += int((batch["image"].std(dim=1).amax(dim=(1, 2)) == 0).sum())
    assert 0 < grey < 50
