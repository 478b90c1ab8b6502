"""Large tensors on a CPU come in few pages, and are ordinary tensors otherwise."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from moe_bench.model import pages

resource = pytest.importorskip("resource", reason="page faults are counted on Unix only")
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LARGE = (3, pages.WORTH_IT)
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")


def faults() -> int:
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


def resident() -> int:
    """Pages of 4 KiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not SWITCH.exists() or "[never]" in SWITCH.read_text(), reason="this system has no huge pages")
def test_a_large_tensor_costs_a_fault_for_megabytes_and_not_for_each_page() -> None:
    tensor = pages.empty(LARGE, torch.uint8)
    before = faults()
    tensor.zero_()
    assert faults() - before < tensor.numel() / 4096 / 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(0, 4), (2, 3), LARGE])
def test_it_is_an_ordinary_tensor_of_the_shape_asked_for(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = pages.empty(shape, dtype)
    assert (tensor.shape, tensor.dtype, tensor.device.type) == (shape, dtype, "cpu")
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % 64 == 0
    assert torch.equal(tensor.fill_(3), torch.full(shape, 3, dtype=dtype))


@needs_proc
def test_its_memory_lives_as_long_as_a_view_of_it_and_can_then_be_given_back() -> None:
    gc.collect()
    pages.give_back()
    before = resident()
    row = pages.empty(LARGE, torch.uint8).fill_(7)[1]
    assert resident() - before >= 3 * pages.WORTH_IT // 4096 - 100
    pages.give_back()
    assert (row == 7).all()
    del row
    pages.give_back()
    assert resident() - before < pages.WORTH_IT // 4096


def test_the_next_tensor_of_its_size_has_the_memory_of_one_that_is_gone() -> None:
    pages.give_back()
    first = pages.empty(LARGE, torch.uint8)
    place = first.data_ptr()
    second = pages.empty(LARGE, torch.uint8)
    assert second.data_ptr() != place
    del first
    first = pages.empty((3, pages.WORTH_IT // 4), torch.float32)
    assert first.data_ptr() == place
    before = faults()
    first.zero_()
    assert faults() - before < 100


@needs_proc
def test_memory_kept_never_adds_to_the_most_that_was_in_use() -> None:
    pages.give_back()
    before = resident()
    held = [pages.empty(LARGE, torch.uint8).zero_() for _ in range(2)]
    most = resident() - before
    del held
    for sixteenth in range(1, 16):  # other sizes, of which none fits what is kept
        pages.empty((3, pages.WORTH_IT * (1 + sixteenth) // 16), torch.uint8).zero_()
        assert resident() - before < most + pages.WORTH_IT // 4096
    pages.give_back()
    assert resident() - before < pages.WORTH_IT // 4096
