"""At what training length a finding appears: the same test at each validation of the same runs.

The learning rate is not annealed there, so an early validation is not what a shorter training would reach; and these
tests are not corrected for their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_bench.report.collect import Run
from moe_bench.report.figures.history import Points, validations
from moe_bench.report.findings import OPEN, Finding, judge
from moe_bench.report.pairs import Value

Curves = Mapping[str, Points]
"""A run's name → step → prec@1."""


@dataclass(frozen=True)
class Moment:
    """What the runs said at a step."""

    step: int
    effect: float
    half: float | None
    verdict: str


def curves(runs: Sequence[Run]) -> Curves:
    """The validations of all finished runs."""
    return {run.name: validations(run, "step") for run in runs if run.summary is not None}


def trend(finding: Finding, of: Curves) -> list[Moment]:
    """The verdict at each step at which all its runs were validated."""
    steps = [set(of.get(run.name, {})) for pair in finding.paired for run in (pair.first, pair.second)]
    shared = sorted(map(int, set.intersection(*steps))) if steps else []
    judged = [(step, judge(finding.claim, "val/prec1", finding.paired, _at(of, step))) for step in shared]
    return [Moment(step, f.evidence.effect, f.evidence.half, f.verdict) for step, f in judged if f.evidence]


def _at(of: Curves, step: int) -> Value:
    return lambda run: of[run.name][step]


def appears(finding: Finding, moments: Sequence[Moment]) -> int | None:
    """The first step from which on the verdict is the final one; None where there is none."""
    if finding.verdict == OPEN:
        return None
    since = None
    for moment in reversed(moments):
        if moment.verdict != finding.verdict:
            break
        since = moment.step
    return since
