"""The published numbers, to stand beside ours: Liu, Blondel, Riquelme and Puigcerver, "Routers in Vision Mixture of
Experts: An Empirical Study". Numbers only, in paper.csv.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

from moe_bench.monitor.units import MISSING

COLUMNS = {
    "jft_prec1": "paper: JFT prec@1 %",
    "imagenet_10shot": "paper: ImageNet 10-shot %",
    "tpuv3_days": "paper: TPUv3-days",
}
NOTE = (
    "Published values come from JFT-300M with 18,291 classes, 10-shot on ImageNet, and much longer training: "
    "compare orders and gaps, not levels."
)


@dataclass(frozen=True)
class Published:
    """What the paper reports, by (model, router, capacity)."""

    values: dict[tuple[str, str, float], dict[str, str]]

    @property
    def headings(self) -> list[str]:
        return list(COLUMNS.values())

    @property
    def notes(self) -> list[str]:
        reasons = [f"{m}, {r}, capacity {c:g}: {row['note']}" for (m, r, c), row in self.values.items() if row["note"]]
        return [NOTE, f"The paper has no value for {'; '.join(reasons)}."]

    def cells(self, model: str, router: str, capacity: float | None) -> list[str]:
        """One text for each heading; – where the paper has no such run or no value."""
        row = {} if capacity is None else self.values.get((model, router, capacity), {})
        return [row.get(name) or MISSING for name in COLUMNS]


def published() -> Published:
    text = resources.files("moe_bench.report").joinpath("paper.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return Published({(row["model"], row["router"], float(row["capacity"])): row for row in rows})
