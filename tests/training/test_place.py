"""From settings to devices, precision and pieces of a batch."""

from __future__ import annotations

import pytest
import torch

from moe_bench.errors import ConfigError
from moe_bench.training.place import accumulation, resolve


def test_auto_on_a_cpu_is_full_precision() -> None:
    place = resolve("cpu")
    assert (place.accelerator, place.precision, place.world) == ("cpu", "32-true", 1)
    assert resolve("cpu", precision="bf16").precision == "bf16-mixed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        resolve("gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_takes_the_gpu_and_its_fast_precision() -> None:
    place = resolve()
    fast = torch.cuda.get_device_capability() >= (8, 0)
    assert (place.accelerator, place.precision) == ("gpu", "bf16-mixed" if fast else "32-true")


@pytest.mark.parametrize(
    ("devices", "nodes", "asked", "strategy"),
    [
        (1, 1, "ddp", "auto"),
        (1, 1, "fsdp", "auto"),
        (2, 1, "auto", "ddp"),
        (1, 2, "ddp", "ddp"),
        (4, 2, "fsdp", "fsdp"),
    ],
)
def test_one_device_shares_nothing_and_several_do_as_asked(devices: int, nodes: int, asked: str, strategy: str) -> None:
    place = resolve("cpu", devices, nodes, asked)
    assert (place.strategy, place.world) == (strategy, devices * nodes)


def test_a_batch_is_cut_into_equal_pieces() -> None:
    assert accumulation(4096, world=8, device_batch=128) == 4
    assert accumulation(128, world=1, device_batch=128) == 1


@pytest.mark.parametrize(
    ("batch", "world", "piece", "told"), [(100, 1, 32, "100"), (100, 3, 10, "none"), (12, 2, 4, "6, 3")]
)
def test_a_batch_that_does_not_come_out_even_is_refused_with_sizes_that_do(
    batch: int, world: int, piece: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"Pieces that do:.*{told.split(', ', maxsplit=1)[0]}"):
        accumulation(batch, world, piece)
