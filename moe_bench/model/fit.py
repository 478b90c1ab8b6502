"""Which device batch fits the memory, told before anything is allocated. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from moe_bench.model.cost import Cost
from moe_bench.model.memory import state_bytes

HEAP = 1.75
"""Bytes that an allocator holds for each byte of activations. Measured with glibc's, which keeps the holes between
tensors below 32 MB: up to 1.7 times. torch's CUDA allocator holds less."""
HALF = 2  # bytes of a bfloat16


@dataclass(frozen=True)
class Fit:
    """The largest batch that a device can hold, or what the smallest would need."""

    device_batch: int
    """Images at once; 0 if not even ``smallest_batch`` fits."""
    smallest_batch: int
    """One routing group."""
    fixed_bytes: int
    """State and workspaces: needed whatever the batch."""
    bytes_per_image: int
    needed_bytes: int
    """With ``device_batch``, or with ``smallest_batch`` where nothing fits."""


def fits(
    cost: Cost,
    batch: int,
    memory: int,
    *,
    optimizer: str = "adamw",
    autocast: bool = False,
    held: int | None = None,
) -> Fit:
    """How many of the ``batch`` images of a step and device to compute at once within ``memory`` bytes.

    Candidates divide ``batch`` and are whole routing groups. Activations are counted in float32, a bound where
    ``autocast`` halves most of them; it then also keeps a copy of the weights in half precision.

    ``held``: parameters whose state the device keeps, where others keep the rest; None: all. The weights of the layer
    at work are then gathered, and counted like its gradients.

    Raises:
        ValueError: ``batch`` is not a multiple of the routing group.
    """
    group = max(cost.group_images, 1)
    if batch % group:
        raise ValueError(f"a device's batch of {batch} images is no multiple of the routing group of {group} images")
    kept = cost.params_total if held is None else held
    working = cost.working_bytes * (1 if held is None else 2)
    fixed = state_bytes(kept, optimizer) + working + HALF * kept * autocast
    image = round(HEAP * cost.activation_bytes_per_image)
    candidates = (size for size in range(batch, 0, -group) if batch % size == 0)
    device_batch = next((size for size in candidates if fixed + size * image <= memory), 0)
    return Fit(device_batch, group, fixed, image, fixed + (device_batch or group) * image)
