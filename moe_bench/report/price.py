"""What a training cost, in the unit by which the runs at hand can be compared.

On a CPU that others use too, wall time tells of the others: there it is CPU time, where the runs counted it. Runs on
one kind of device compare by device-days; runs on different ones only by floating point operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_bench.report.collect import Run

DAY = 86_400.0  # seconds
BACKWARD = 3  # a forward and a backward pass cost so many forward passes


@dataclass(frozen=True)
class Price:
    """``figure`` of a summary times ``scale``, in ``unit``; ``note`` says what to beware of."""

    figure: str
    unit: str
    scale: float = 1.0
    note: str = ""

    def of(self, run: Run) -> float | None:
        """None where the run did not count it."""
        value, factor = run.number(self.figure), self.scale
        if self.figure == FLOPS.figure:
            factor *= BACKWARD * (run.number("samples_seen") or 0.0)
        return factor * value if value and factor else None


CPU_DAYS = Price("cost/cpu_s", "CPU-days", 1 / DAY, "CPU-days are CPU time, whatever else ran on the machine.")
DEVICE_DAYS = Price("cost/device_days", "device-days")
WALL_DAYS = Price(
    "cost/device_days",
    "device-days",
    note="Device-days are wall time on a CPU, not CPU time: what else ran there is in them.",
)
FLOPS = Price("flops/image", "training FLOP", note="Cost is in FLOPs because the runs were timed on different devices.")


def price(groups: Iterable[Sequence[Run]]) -> Price:
    """The unit for ``groups`` of runs, each a row of a table: CPU-days where each group has a run that counted them."""
    filled = [group for group in groups if group]
    return days(filled) if len({device(run) for group in filled for run in group}) <= 1 else FLOPS


def days(groups: Iterable[Sequence[Run]]) -> Price:
    """CPU-days or device-days; the latter are for pairs of runs on one kind of device."""
    filled = [group for group in groups if group]
    if not filled or any(device(run) != ("CPU", 1) for group in filled for run in group):
        return DEVICE_DAYS
    counted = all(any(CPU_DAYS.of(run) for run in group) for group in filled)
    return CPU_DAYS if counted else WALL_DAYS


def device(run: Run) -> tuple[object, object]:
    """(kind, how many)."""
    summary = run.summary or {}
    return summary.get("device"), summary.get("world_size")
