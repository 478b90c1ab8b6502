"""Findings and recommendation laid out: parts of the page, lines for a terminal, and findings.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moe_bench.monitor.units import MISSING
from moe_bench.report.claims import COST
from moe_bench.report.collect import Run
from moe_bench.report.evidence import Evidence
from moe_bench.report.findings import FAILS, HOLDS, OPEN, Finding, findings
from moe_bench.report.groups import Section
from moe_bench.report.page import Heading, Part, Text
from moe_bench.report.pairs import blocks
from moe_bench.report.paper import published
from moe_bench.report.paper_claims import in_the_paper, published_runs
from moe_bench.report.recommend import in_words, recommendations
from moe_bench.report.tables import Table
from moe_bench.report.trend import Moment, appears, curves, trend

HOW_TO_READ = (
    "A claim is judged by pairs of runs that differ in it alone: same data, recipe, model, capacity and seed. "
    "Differences are averaged over settings within each seed, and Student's t is over seeds: would new seeds agree, on "
    "these settings? ± over settings answers the other question, would another setting agree. p is two-sided and "
    "corrected by Holm over the claims on one metric (the dense question is a family of its own); metrics are not "
    "corrected against each other. Less than 3 pairs or 2 seeds are never enough. Exceptions in single settings do "
    "not overturn a claim, as in the paper; they are counted. “Matters little” means within the paper's own spread, "
    "0.62 points (prec@1) or 0.84 (few-shot), wide margins where accuracy is low. More seeds: for 80 % power, "
    "were the effect and spread seen the true ones; from few seeds a rough guess."
)
DENSE_NOTE = (
    "Equal compute only at capacity 1: a higher capacity costs more, see FLOPs ×. Each router is a test of its own."
)
TREND_NOTE = (
    "The same test at each validation of the same runs, not corrected for their number. The learning rate is not "
    "annealed there, so this is not what a shorter training would reach."
)
RECOMMENDATION_NOTE = (
    "The best of many by few seeds is flattered by chance. What the runs cannot tell from it was tested pair by pair "
    "over seeds, at 95 % and without correction. Costs are as measured on these machines."
)


@dataclass(frozen=True)
class Block:
    """Findings on one data set and length of training, each on prec@1 with its course over training."""

    title: str
    findings: list[Finding]
    trends: dict[str, list[Moment]]  # by name of the claim


def judged(runs: Sequence[Run]) -> list[Block]:
    """Blocks with a finished run, the largest first."""
    return [_block(group) for group in blocks(runs) if any(run.summary is not None for run in group)]


def _block(runs: list[Run]) -> Block:
    found, of = findings(runs), curves(runs)
    trends = {f.claim.name: trend(f, runs, of) for f in found if f.figure == "val/prec1" and f.evidence}
    recipe = runs[0].config.get("recipe")
    steps = recipe.get("steps") if isinstance(recipe, dict) else None
    return Block(runs[0].data + (f", {steps:,} steps" if isinstance(steps, int) else ""), found, trends)


def finding_parts(found: Sequence[Block]) -> list[Part]:
    """What the report says first."""
    parts: list[Part] = [Heading("Findings"), Text(HOW_TO_READ)]
    for block in found:
        parts += [Text(line) for line in lines(block)]
        for figure in dict.fromkeys(f.figure for f in block.findings):
            parts.append(_table(block, [f for f in block.findings if f.figure == figure]))
        if any(block.trends.values()):
            parts.append(_trend_table(block))
    return parts


def recommendation_lines(sections: Sequence[Section]) -> list[str]:
    """A line for accuracy, one for cost and one for the Pareto set, for each section and model."""
    named = [(f"{section.title}: " if len(sections) > 1 else "", section) for section in sections]
    return [title + line for title, section in named for r in recommendations(section) for line in in_words(r)]


def recommendation_parts(sections: Sequence[Section]) -> list[Part]:
    said = recommendation_lines(sections)
    return [Heading("Recommendation"), *map(Text, [*said, RECOMMENDATION_NOTE])] if said else []


def lines(block: Block) -> list[str]:
    """A line a claim, the question about the dense model first."""
    paper = [f for f in block.findings if not _is_dense(f)]
    tested = dict.fromkeys(f.claim for f in paper if f.evidence)
    untested = [claim.sentence for claim in dict.fromkeys(f.claim for f in paper) if claim not in tested]
    said = [f"{claim.sentence}: {'; '.join(_short(f) for f in paper if f.claim == claim)}." for claim in tested]
    missing = (
        [f"No pairs of runs to judge: {'; '.join(untested)}. report.md says how to make them."] if untested else []
    )
    return [f"{block.title}. {_dense_line(block)}", *said, *missing]


def _dense_line(block: Block) -> str:
    """The answer to the first question, on prec@1 and at equal compute."""
    asked = "Does an MoE beat the dense ViT of equal compute on these data?"
    equal = [f for f in block.findings if _is_dense(f) and f.figure == "val/prec1" and f.claim.capacities == (1.0, 1.0)]
    tested = [f for f in equal if f.evidence]
    if not tested:
        return f"{asked} Unknown: no dense run beside an MoE of capacity 1 and the same seed (router=dense)."
    better, worse = ([f for f in tested if f.verdict == verdict] for verdict in (HOLDS, FAILS))
    answer = "Yes" if better else "No" if len(worse) == len(tested) else "Not enough evidence"
    return (
        f"{asked} {answer}: "
        + "; ".join(
            f"{f.claim.comparisons[0][0]} {_effect(f)} {'(open)' if f.verdict == OPEN else f'({f.verdict})'}"
            for f in tested
        )
        + "."
    )


def _short(f: Finding) -> str:
    metric = _metric(f.figure)
    if f.evidence is None:
        return f"{metric} no pairs"
    reason = f", {f.reason}" if f.reason else ""
    return f"{metric} {f.verdict}{reason} ({_effect(f)})"


def _table(block: Block, found: Sequence[Finding]) -> Table:
    paper = published_runs(published())
    cost = found[0].claim.of == COST
    effect = "cost ×" if cost else "points"
    headings = ["claim", "verdict", effect, "± over settings", "settings agree", "seeds", "p", "cost ×", "FLOPs ×"]
    headings += ["more seeds", "paper"]
    rows = [_row(f, _paper_cell(f, paper)) for f in found]
    notes = [DENSE_NOTE] if any(map(_is_dense, found)) else []
    notes += [note for f in found if not _is_dense(f) for note in _notes(f)]
    return Table(f"Findings on {_metric(found[0].figure)}: {block.title}", headings, rows, notes, labels=2)


def _notes(f: Finding) -> list[str]:
    """What does not fit into a row: settings in which it is not so, and what was not counted."""
    left_out = f.evidence.left_out if f.evidence else 0
    notes = [f"not in {'; '.join(f.contrary)}"] if f.contrary else []
    notes += [f"{left_out} pairs are outside the block of seeds × settings"] if left_out else []
    notes += [f"{f.unfinished} runs of these routers failed or diverged and count nowhere"] if f.unfinished else []
    return [f"{f.claim.sentence}: {note}." for note in notes]


def _row(f: Finding, paper: str) -> list[str]:
    e = f.evidence
    settings = len(e.by_setting) if e else 0
    opposed = sum(setting in f.contrary for setting in e.by_setting) if e else 0
    return [
        f.claim.sentence,
        f.verdict + (f": {f.reason}" if f.reason else ""),
        _effect(f),
        MISSING if e is None or e.over_settings is None or f.claim.of == COST else f"{e.over_settings:.2f}",
        f"{settings - opposed} of {settings}" if e else MISSING,
        MISSING if e is None else str(e.seeds),
        MISSING if f.p is None else f"{f.p:.2g}",
        *(MISSING if ratio is None or f.claim.alike else f"{ratio:.2f}" for ratio in (f.cost_ratio, f.flops_ratio)),
        f.more or MISSING,
        paper,
    ]


def _paper_cell(f: Finding, paper: list[Run]) -> str:
    """The paper's mean, and in how many of its settings it is the other way."""
    theirs = in_the_paper(f.claim, f.figure, paper)
    if theirs.evidence is None:
        return MISSING
    exceptions = f", not in {len(theirs.contrary)}" if theirs.contrary else ""
    return f"{_effect(theirs)}{exceptions}"


def _trend_table(block: Block) -> Table:
    steps = sorted({moment.step for moments in block.trends.values() for moment in moments})
    shown = sorted({steps[round(i * (len(steps) - 1) / 5)] for i in range(6)})
    sentences = {f.claim.name: f for f in block.findings if f.figure == "val/prec1"}
    rows = []
    for name, moments in block.trends.items():
        at = {moment.step: moment for moment in moments}
        since = appears(sentences[name], moments)
        cells = [f"{at[step].effect:+.2f}{_mark(at[step].verdict)}" if step in at else MISSING for step in shown]
        rows.append([sentences[name].claim.sentence, MISSING if since is None else f"step {since:,}", *cells])
    headings = ["claim", "appears at", *(f"step {step:,}" for step in shown)]
    notes = [TREND_NOTE, "In points. ✓ holds, ✗ does not hold, no mark: not enough evidence."]
    return Table(f"When findings on prec@1 appear: {block.title}", headings, rows, notes, labels=2)


def _mark(verdict: str) -> str:
    return {HOLDS: " ✓", FAILS: " ✗"}.get(verdict, "")


def _is_dense(f: Finding) -> bool:
    return f.claim.name.startswith("dense/")


def _metric(figure: str) -> str:
    """ "probe/cifar10/10shot" → "cifar10 10-shot"."""
    if figure.startswith("probe/"):
        return figure.removeprefix("probe/").replace("/", " ").replace("shot", "-shot")
    return {"val/prec1": "prec@1", "cost/device_days": "device-days"}.get(figure, figure)


def _effect(f: Finding) -> str:
    """ "+1.20 ± 0.30"; a factor for costs."""
    e = f.evidence
    if e is None:
        return MISSING
    if f.claim.of == COST:
        interval = f" ({math.exp(e.effect - e.half):.2f} to {math.exp(e.effect + e.half):.2f})" if e.half else ""
        return f"× {math.exp(e.effect):.2f}{interval}"
    sign = "" if f.claim.alike else "+"
    effect = abs(e.effect) if f.claim.alike else e.effect
    return f"{effect:{sign}.2f}" + (f" ± {e.half:.2f}" if e.half else "")


def as_json(found: Sequence[Block], sections: Sequence[Section]) -> str:
    """findings.json: the same for programs. Effects in points, of costs as natural logarithms of ratios."""
    value = {
        "format": 1,
        "blocks": [{"title": block.title, "findings": [_plain(f, block) for f in block.findings]} for block in found],
        "recommendation": recommendation_lines(sections),
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
