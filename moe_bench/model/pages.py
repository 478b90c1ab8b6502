"""Big tensors on a CPU without a page fault every 4 KiB.

The kernel hands memory out page by page, at the first touch, and glibc returns what it frees above 32 MiB at once. So a
training step pays for the same pages again and again. It shows most at small batch, where the gradients of 32 experts
are written for few tokens. In pages of 2 MiB the same memory comes about five times faster, once the system has them at
hand; the first time, in a virtual machine above all, it may take longer than small pages would.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

HUGE_PAGE = 2 * 1024**2  # bytes, on x86-64 and on Arm with 4 KiB pages
WORTH_IT = 32 * 1024**2  # bytes; up to here glibc learns to keep what is freed, whose pages are there already


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """``torch.empty`` on the CPU, in huge pages if it is large and the system has them (Linux, not switched off)."""
    size = math.prod(shape) * dtype.itemsize
    if size < WORTH_IT or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)  # keeps the memory as long as any view of it lives
    start = -whole.data_ptr() % HUGE_PAGE
    return whole[start : start + size].view(dtype).view(shape)
