"""What follows from settings before anything is built."""

from __future__ import annotations

import pytest

from moe_bench import build, room
from moe_bench.config import load
from moe_bench.training.place import Place

CPU = Place("cpu", 1, 1, "auto", "32-true", "CPU")
GPU = Place("gpu", 1, 1, "auto", "bf16-mixed", "a GPU")


@pytest.mark.parametrize(
    ("words", "at", "workers"),
    [
        (["model=tiny"], CPU, None),
        (["model=b16"], CPU, 0),
        (["model=b16"], GPU, None),  # its weights are not in host memory
        (["model=b16", "runtime.workers=2"], CPU, 2),
    ],
)
def test_no_data_process_keeps_a_copy_of_large_weights_unless_asked_for(
    words: list[str], at: Place, workers: int | None
) -> None:
    cfg = load(words)
    assert room.training_workers(cfg, at, build.price(cfg, num_classes=100)) == workers
