"""The same claims on the published numbers, taken as runs of one seed: the paper's effects and its own exceptions."""

from __future__ import annotations

from pathlib import Path

from moe_bench.report.claims import COST, Claim
from moe_bench.report.collect import Run
from moe_bench.report.findings import Finding, judge
from moe_bench.report.pairs import candidates, pairs
from moe_bench.report.paper import Published
from moe_bench.report.price import DEVICE_DAYS

FIGURES = {"jft_prec1": ("val/prec1", 0.01), "imagenet_10shot": ("probe/imagenet/10shot", 0.01)}
FIGURES |= {"tpuv3_days": (DEVICE_DAYS.figure, 1.0)}
"""Column of paper.csv → figure of a summary, and what it is multiplied by."""


def published_runs(paper: Published) -> list[Run]:
    """One finished run for each row; figures that the paper lacks are absent."""
    return [_run(*cell, row) for cell, row in paper.values.items()]


def in_the_paper(claim: Claim, figure: str, runs: list[Run]) -> Finding:
    """The claim on the paper's own metric of that kind: prec@1 on JFT-300M, 10-shot on ImageNet, or TPUv3-days."""
    if claim.of == COST:
        figure = DEVICE_DAYS.figure
    elif figure.startswith("probe/"):
        figure = "probe/imagenet/10shot"
    return judge(claim, figure, pairs(claim, candidates(runs)), lambda run: run.number(figure))


def _run(model: str, router: str, capacity: float, row: dict[str, str]) -> Run:
    summary = {name: scale * float(row[column]) for column, (name, scale) in FIGURES.items() if row[column]}
    return Run(
        name=f"{router}-{model}-c{capacity:g}",
        path=Path(),
        state="finished",
        reason="",
        router=router,
        model=model,
        capacity=capacity,
        data="JFT-300M",
        seed=0,
        summary=summary,
    )
