"""Where it is measured: device, threads, precision, the clock, peak memory."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from moe_bench.bench.timing import Call, stopwatch
from moe_bench.errors import ConfigError
from moe_bench.model import pages


def find_device(asked: str) -> torch.device:
    """Of "auto", "cpu" or "cuda". Raises ConfigError where there is no such device."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch sees no CUDA device here. Use --device cpu.")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)


def describe(device: torch.device) -> dict[str, Any]:
    """The device as people and scripts know it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "type": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads within an operation; None: as torch likes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def precision(device: torch.device, dtype: str) -> torch.autocast:
    """float32, or bfloat16 by autocast with parameters in float32, as training does it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16")


def clock(device: torch.device) -> Callable[[Call], float]:
    """A function that times a call, on a GPU from an idle device until all its kernels are done."""
    return _cuda_stopwatch if device.type == "cuda" else stopwatch


def _cuda_stopwatch(call: Call) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    kept = call()
    end.record()
    torch.cuda.synchronize()
    del kept
    return start.elapsed_time(end) / 1000  # it counts in ms


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """The most memory that a call takes beyond what was in use before it, in bytes.

    On a GPU by torch's allocator. On a CPU by the kernel, which counts what is really there, whoever asked for it, in
    pages of 4 KiB or more; first, all that is free goes back to it. None where the kernel does not tell (not Linux).
    """
    if device.type == "cuda":
        return _allocated_peak(call)
    try:
        return _resident_peak(call)
    except FileNotFoundError:
        return None


def _allocated_peak(call: Call) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _resident_peak(call: Call) -> int:
    gc.collect()
    pages.give_back()
    with suppress(AttributeError):  # only glibc keeps what is free
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what there is now
    before = _kilobytes("VmRSS")
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition(f"{field}:")[2].split()[0])


@contextmanager
def out_of_memory_told(what: str) -> Iterator[None]:
    """Turns torch's ways to say that memory ran out into ConfigError."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ConfigError(f"out of memory at {what}. Use fewer --images or a smaller --case.") from error
