"""All claims judged, block by block of runs that may be compared, and the same as findings.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from moe_bench.report.collect import Run
from moe_bench.report.evidence import Evidence
from moe_bench.report.findings import Finding, findings, price_of
from moe_bench.report.groups import length
from moe_bench.report.pairs import blocks
from moe_bench.report.price import Price
from moe_bench.report.recommend import Advice, recommendation_lines
from moe_bench.report.settings import asked_alike
from moe_bench.report.trend import Moment, appears, curves, trend


@dataclass(frozen=True)
class Block:
    """Findings on one data set and length of training, each on prec@1 with its course over training."""

    data: str
    length: str  # ", 1,200 steps of 256 pictures"
    pictures: int  # seen in all, as asked for; 0 where that is not known
    price: Price
    findings: list[Finding]
    trends: dict[str, list[Moment]]  # by name of the claim
    asked: list[str]  # words of the command line that all of its runs have

    @property
    def title(self) -> str:
        return self.data + self.length


def judged(runs: Sequence[Run]) -> list[Block]:
    """Blocks with a finished run, the largest first."""
    return [_block(group) for group in blocks(runs) if any(run.summary is not None for run in group)]


def _block(runs: list[Run]) -> Block:
    found, of = findings(runs), curves(runs)
    trends = {f.claim.name: trend(f, of) for f in found if f.figure == "val/prec1" and f.evidence}
    return Block(runs[0].data, length(runs[0]), _pictures(runs[0]), price_of(runs), found, trends, asked_alike(runs))


def _pictures(run: Run) -> int:
    recipe = run.config.get("recipe")
    asked = [recipe.get(name) for name in ("steps", "batch")] if isinstance(recipe, dict) else [None]
    return prod(n if isinstance(n, int) else 0 for n in asked)


def as_json(found: Sequence[Block], given: Advice) -> str:
    """findings.json: the same for programs. Effects in points, of costs as natural logarithms of ratios."""
    value = {
        "format": 1,
        "blocks": [
            {"title": block.title, "cost": block.price.figure, "findings": [_plain(f, block) for f in block.findings]}
            for block in found
        ],
        "recommendation": recommendation_lines(given),
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _plain(f: Finding, block: Block) -> dict[str, Any]:
    moments = block.trends.get(f.claim.name, []) if f.figure == "val/prec1" else []
    return {
        "claim": f.claim.name,
        "sentence": f.claim.sentence,
        "source": f.claim.source,
        "metric": f.figure,
        "verdict": f.verdict,
        "reason": f.reason,
        "p_holm": f.p,
        **_numbers(f.evidence),
        "contrary_settings": f.contrary,
        "cost_ratio": f.cost_ratio,
        "flops_ratio": f.flops_ratio,
        "unfinished_runs": f.unfinished,
        "more_seeds": f.more,
        "appears_at_step": appears(f, moments),
        "over_training": [vars(moment) for moment in moments],
    }


def _numbers(e: Evidence | None) -> dict[str, Any]:
    if e is None:
        return {"effect": None, "pairs": 0}
    names = ("effect", "half", "spread", "over_settings", "seeds", "pairs", "left_out", "by_setting")
    return {name: getattr(e, name) for name in names}
