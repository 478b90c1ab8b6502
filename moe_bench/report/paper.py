"""The published numbers, to stand beside ours: Liu, Blondel, Riquelme and Puigcerver, "Routers in Vision Mixture of
Experts: An Empirical Study". Numbers only, in paper.csv.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

from moe_bench.monitor.units import MISSING

PREC1, SHOTS, DAYS = "jft_prec1", "imagenet_10shot", "tpuv3_days"
MODELS = ("b32", "b16", "l16")
NOTE = (
    "Published values come from JFT-300M with 18,291 classes, 10-shot on ImageNet, and much longer training: "
    "compare orders and gaps, not levels."
)


@dataclass(frozen=True)
class Published:
    """What the paper reports, by (model, router, capacity)."""

    values: dict[tuple[str, str, float], dict[str, str]]

    @property
    def notes(self) -> list[str]:
        reasons = [f"{m}, {r}, capacity {c:g}: {row['note']}" for (m, r, c), row in self.values.items() if row["note"]]
        return [NOTE, f"The paper has no value for {'; '.join(reasons)}."]

    def cells(self, model: str) -> list[tuple[str, float]]:
        """The (router, capacity) of which the paper speaks."""
        return [(router, capacity) for of, router, capacity in self.values if of == model]

    def text(self, figure: str, model: str, router: str, capacity: float | None) -> str:
        """As printed; – where the paper has no such run or no value."""
        row = {} if capacity is None else self.values.get((model, router, capacity), {})
        return row.get(figure) or MISSING

    def gap(self, figure: str, model: str, router: str, capacity: float | None, reference: str) -> str:
        """What a router has over ``reference`` in points, both at one capacity; – where one of them is missing."""
        if router == reference:
            return MISSING
        value, base = (self.text(figure, model, name, capacity) for name in (router, reference))
        return MISSING if MISSING in (value, base) else f"{float(value) - float(base):+.2f}"


def published() -> Published:
    text = resources.files("moe_bench.report").joinpath("paper.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return Published({(row["model"], row["router"], float(row["capacity"])): row for row in rows})
