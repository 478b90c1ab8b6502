"""What the report says first: the recommendation, the answers, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from moe_bench.report.finding_tables import by_length, details, over_training, overview
from moe_bench.report.findings import FAILS, HOLDS, Finding
from moe_bench.report.page import Heading, Part, Text
from moe_bench.report.recommend import Advice, candidates_table, recommendation_lines
from moe_bench.report.tables import Table
from moe_bench.report.verdicts import Block
from moe_bench.report.wording import effect, is_dense

HOW_TO_READ = (
    "A claim is judged by pairs of runs that differ in it alone: same data, recipe, model, capacity and seed. "
    "Differences are averaged over settings within each seed, and Student's t is over seeds: would new seeds agree, on "
    "these settings? ± over settings answers the other question, would another setting agree. p is that of the "
    "likeliest verdict, corrected by Holm over the claims on one metric (the dense question is a family of its own); "
    "metrics are not corrected against each other. Less than 3 pairs or 2 seeds are never enough. Exceptions in single "
    "settings do not overturn a claim, as in the paper; they are counted. More seeds: for 80 % power, were the effect "
    "and spread seen the true ones; from few seeds a rough guess."
)


def recommendation_parts(given: Advice) -> list[Part]:
    """A paragraph for each model, and all settings behind it in a table."""
    lines = recommendation_lines(given)
    tables = [candidates_table(title, found) for title, found in given if found]
    return [Heading("Recommendation"), *map(Text, lines), *tables] if lines else []


def finding_parts(found: Sequence[Block]) -> list[Part]:
    """The answers, each block's in a table, and then what they rest on."""
    parts: list[Part] = [Heading("Findings")]
    for block in found:
        parts += [Text(answer(block)), *short_tables(block)]
    parts += lengths(found)
    grounds = [table for block in found for table in _grounds(block)]
    return [*parts, Heading("What the findings rest on", 3), Text(HOW_TO_READ), *grounds] if grounds else parts


def _grounds(block: Block) -> list[Table]:
    """What its verdicts rest on; nothing on a metric of which there are no pairs."""
    metrics = dict.fromkeys(f.figure for f in block.findings)
    tables = [details(block.title, [f for f in block.findings if f.figure == figure]) for figure in metrics]
    if any(block.trends.values()):
        tables.append(over_training(block.title, block.findings, block.trends))
    return [table for table in tables if table.rows]


def lengths(found: Sequence[Block]) -> list[Table]:
    """For each data set that was trained on for several lengths: the verdicts on prec@1 side by side."""
    tables = []
    for data in dict.fromkeys(block.data for block in found):
        its = sorted((block for block in found if block.data == data), key=lambda block: block.pictures)
        if len({block.pictures for block in its}) > 1:
            tables.append(by_length(data, {block.length.removeprefix(", "): block.findings for block in its}))
    return [table for table in tables if table.rows]


def short_tables(block: Block) -> list[Table]:
    """Each claim on each metric: first over the dense model, then the paper's."""
    dense = [f for f in block.findings if is_dense(f)]
    paper = [f for f in block.findings if not is_dense(f)]
    tables = [
        overview(f"Gain over the dense ViT: {block.title}", dense, block.price),
        overview(f"The paper's claims: {block.title}", paper, block.price, block.asked),
    ]
    return [table for table in tables if table.rows]


def answer(block: Block) -> str:
    """To the first question, on prec@1 and at equal compute."""
    asked = f"{block.title}. Does an MoE beat the dense ViT of equal compute on these data?"
    equal = [f for f in block.findings if is_dense(f) and f.figure == "val/prec1" and f.claim.capacities == (1.0, 1.0)]
    tested = [f for f in equal if f.evidence]
    if not tested:
        return f"{asked} Unknown: no dense run beside an MoE of capacity 1 and the same seed (router=dense)."
    better, worse = ([f for f in tested if f.verdict == verdict] for verdict in (HOLDS, FAILS))
    others = [f"not shown for {len(tested) - len(better)} other routers"] if len(tested) > len(better) else []
    if better:
        return f"{asked} Yes: {'; '.join([*(f'{_router(f)} {effect(f)} points' for f in better), *others])}."
    best = max(tested, key=lambda f: f.evidence.effect if f.evidence else 0.0)
    nearest = f"the highest of {len(tested)} is {_router(best)}, {effect(best)} points on {_seeds(best)}"
    return f"{asked} {'No' if len(worse) == len(tested) else 'Not enough evidence'}: {nearest}."


def _router(f: Finding) -> str:
    return f.claim.comparisons[0][0]


def _seeds(f: Finding) -> str:
    n = f.evidence.seeds if f.evidence else 0
    return f"{n} seeds" if n > 1 else "one seed"
