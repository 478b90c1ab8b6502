"""Big tensors on a CPU without a page fault every 4 KiB.

The kernel hands memory out page by page, at the first touch, and glibc returns what it frees above 32 MiB at once. So a
training step pays for the same pages again and again. It shows most at small batch, where the gradients of 32 experts
are written for few tokens. Here the memory of a tensor that is gone waits for the next one of its size, and new memory
comes in pages of 2 MiB: about five times faster once the system has them at hand, though the first time, in a virtual
machine above all, it may take longer than small pages would.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
import weakref
from collections import deque
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
    memory = _store.take(size + HUGE_PAGE)
    lent = memoryview(memory)
    weakref.finalize(lent, _store.returned.append, memory)
    whole = torch.frombuffer(lent, dtype=torch.uint8)  # keeps ``lent`` as long as any view of it lives
    start = -whole.data_ptr() % HUGE_PAGE
    return whole[start : start + size].view(dtype).view(shape)


def give_back() -> None:
    """All memory that no tensor is in, to the system."""
    _store.clear()


class _Store:
    """The memory of tensors that are gone, at most as much as keeps lent and kept within the most ever lent."""

    def __init__(self) -> None:
        self.returned: deque[mmap.mmap] = deque()  # from anywhere: a collection of garbage may end a tensor in ``take``
        self._kept: list[mmap.mmap] = []  # the oldest first
        self._lent = self._most = 0  # bytes
        self._lock = threading.Lock()

    def take(self, size: int) -> mmap.mmap:
        """``size`` bytes, of any content."""
        with self._lock:
            self._sort_in()
            self._lent += size
            self._most = max(self._most, self._lent)
            fit = next((i for i, memory in enumerate(self._kept) if len(memory) == size), None)
            found = None if fit is None else self._kept.pop(fit)
            self._shrink(self._most - self._lent)
            return found or _from_system(size)

    def clear(self) -> None:
        with self._lock:
            self._sort_in()
            self._shrink(0)
            self._most = self._lent

    def _sort_in(self) -> None:
        while self.returned:
            self._kept.append(self.returned.popleft())
            self._lent -= len(self._kept[-1])

    def _shrink(self, most: int) -> None:
        while sum(map(len, self._kept)) > most:
            del self._kept[0]


def _from_system(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


_store = _Store()
