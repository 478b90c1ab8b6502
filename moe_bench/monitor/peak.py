"""The most floating point operations a second that a device can do: what a run's utilisation (MFU) is measured by."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

TERA = 1e12

GPUS: dict[str, tuple[float, float]] = {
    "H100 PCIe": (756.0, 51.2),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.4, 66.9),
    "H200": (989.4, 66.9),
    "A100": (312.0, 19.5),
    "A10G": (70.0, 35.0),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "V100": (0.0, 15.7),
    "T4": (0.0, 8.1),
    "RTX A6000": (154.8, 38.7),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
}
"""TFLOP/s by the maker's data sheets, dense: bfloat16 with sums in float32, and float32 without TF32. The first
whose words are in the device's name counts; 0 where it has no such units."""

ANOTHER = re.compile(r"\b(MIG|Laptop|Max-Q|D|Ti)\b")
"""A slice of a device, or another device of almost the same name: no figure here is of it."""

SIDE, ROUNDS = 512, 20


@dataclass(frozen=True)
class Peak:
    """FLOP/s of one device, None where nobody knows, and how that is known."""

    flops_per_s: float | None
    source: str


def peak(accelerator: str, name: str, precision: str) -> Peak:
    """Of a GPU called ``name`` by its data sheet, of a CPU process as measured now with the threads that it has.

    ``precision`` is Lightning's word: 32-true or bf16-mixed.
    """
    bf16 = precision.startswith("bf16")
    words = "bfloat16" if bf16 else "float32"
    if accelerator == "cpu":
        threads = torch.get_num_threads()
        return Peak(measured(threads, bf16), f"measured: {words} products of {SIDE}×{SIDE}, {threads} thread(s)")
    found = _data_sheet(name)
    if found is None:
        return Peak(None, f"unknown: no data sheet of {name} at hand")
    if not bf16 and torch.get_float32_matmul_precision() != "highest":
        return Peak(None, f"unknown: float32 products of {name} are rounded to TF32")
    figure = found[0] if bf16 else found[1]
    return Peak(
        figure * TERA or None, f"data sheet of {name}: {words}" if figure else f"unknown: {name} has no {words}"
    )


def _data_sheet(name: str) -> tuple[float, float] | None:
    """By whole words: an L40 is no L4."""
    if ANOTHER.search(name):
        return None
    return next((figures for known, figures in GPUS.items() if re.search(rf"\b{known}\b", name)), None)


@lru_cache
def measured(threads: int, bf16: bool) -> float:
    """FLOP/s of the fastest of some matrix products on ``threads`` threads: about 0.1 s of work, once a process."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = torch.ones(2, SIDE, SIDE, dtype=dtype)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best
