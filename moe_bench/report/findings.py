"""Verdicts: each claim on each metric, by paired runs, with its effect, its price and how many more seeds it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from moe_bench.report.claims import CLAIMS, COST, Claim, margin, over_dense
from moe_bench.report.collect import Run
from moe_bench.report.evidence import ALPHA, MOST_SEEDS, Evidence, holm, seeds_needed, weigh
from moe_bench.report.groups import ROUTER_ORDER
from moe_bench.report.pairs import Pair, Value, against_dearest, candidates, label, pairs
from moe_bench.report.price import FLOPS, Price, days, device
from moe_bench.report.tables import probe_columns

HOLDS, FAILS, OPEN = "holds", "does not hold", "not enough evidence"
NIL = 0.1
"""Points. A difference shown to be smaller than this is none."""

Conclusion = tuple[float | None, str, str]
"""Its p, verdict and reason."""
Paired = Sequence[tuple[Claim, Sequence[Pair]]]


@dataclass(frozen=True)
class Finding:
    """A verdict. The effect is in points for accuracy; for costs it is a natural logarithm of a ratio."""

    claim: Claim
    figure: str
    verdict: str
    reason: str
    evidence: Evidence | None
    p: float | None  # corrected by Holm among the claims on this metric
    contrary: list[str]  # settings in which it is not so
    cost_ratio: float | None  # first side over second, CPU- or device-days of the same pairs on the same device
    flops_ratio: float | None
    unfinished: int  # runs of either side that failed or diverged, and count nowhere
    more: str  # seeds, in words
    paired: Sequence[Pair] = ()  # all that it is about, also those without the figure
    each: Sequence[Evidence] = ()  # that the verdict takes: one, or those of comparisons that must all be alike


def figures_of(runs: Sequence[Run]) -> list[str]:
    """Accuracy on the validation set, then each probe."""
    return ["val/prec1", *(column.figure for column in probe_columns(runs))]


def findings(runs: Sequence[Run]) -> list[Finding]:
    """First the question about the dense model, router by router, then the paper's claims; per metric."""
    dense = _dense_claims(runs)
    accuracy, cost = [c for c in CLAIMS if c.of != COST], [c for c in CLAIMS if c.of == COST]
    price, among = price_of(runs), candidates(runs)

    def paired(claims: Sequence[Claim]) -> Paired:
        return [(claim, pairs(claim, among)) for claim in claims]

    families = [paired(dense), paired(accuracy)]
    found = [_judged(family, figure, runs, price) for figure in figures_of(runs) for family in families]
    return [finding for group in [*found, _judged(paired(cost), price.figure, runs, price)] for finding in group]


def price_of(runs: Sequence[Run]) -> Price:
    """By what pairs of these runs compare: CPU-days where each router, model and capacity has a run with them."""
    cells: dict[tuple[str, str, float | None], list[Run]] = {}
    for run in runs:
        if run.summary is not None:
            cells.setdefault((label(run), run.model, run.capacity), []).append(run)
    return days(cells.values())


def _dense_claims(runs: Sequence[Run]) -> list[Claim]:
    """Those of equal compute first."""
    finished = [run for run in runs if run.summary is not None and run.router != "dense"]
    cells = {(run.capacity, label(run)) for run in finished if run.capacity is not None}
    rank = {name: i for i, name in enumerate(ROUTER_ORDER)}
    ordered = sorted(cells, key=lambda cell: (cell[0] != 1, cell[0], rank.get(cell[1], len(rank)), cell[1]))
    return [over_dense(router, capacity) for capacity, router in ordered if capacity is not None]


def _judged(paired: Paired, figure: str, runs: Sequence[Run], price: Price) -> list[Finding]:
    """One family of tests: Holm's correction is over it."""
    drafts = [judge(claim, figure, of, lambda run: run.number(figure)) for claim, of in paired]
    corrected, tests = holm([draft.p for draft in drafts]), sum(draft.evidence is not None for draft in drafts)
    return [
        replace(
            _decide(draft, p, tests),
            cost_ratio=_ratio(draft.paired, price) if _one_device(draft.paired) else None,
            flops_ratio=_ratio(draft.paired, FLOPS),
            unfinished=_unfinished(draft.claim, runs),
        )
        for draft, p in zip(drafts, corrected)
    ]


def judge(claim: Claim, figure: str, paired: Sequence[Pair], value: Value) -> Finding:
    """The verdict of one test by itself, not yet corrected; ``value`` is what the pairs are compared by."""
    about = against_dearest(paired, value) if claim.dearest else paired
    comparisons = dict.fromkeys(pair.comparison for pair in paired)
    weighed = (_weigh(claim, [p for p in paired if p.comparison == names], value) for names in comparisons)
    each = [evidence for evidence in weighed if evidence]
    evidence = _widest(each) if claim.alike else _weigh(claim, about, value)
    of = each if claim.alike else [evidence] if evidence else []
    contrary = [words for e in of for words, effect in e.by_setting.items() if _is_contrary(claim, figure, effect)]
    p, verdict, reason = _likeliest(claim, figure, evidence, each) if evidence else (None, OPEN, "")
    draft = Finding(claim, figure, verdict, reason, evidence, p, contrary, None, None, 0, "", about, of)
    return _decide(draft, p)


def _likeliest(claim: Claim, figure: str, evidence: Evidence, each: Sequence[Evidence]) -> Conclusion:
    """Of what may be concluded from ``evidence``, or from that on ``each`` comparison, what has the smallest p."""
    limit = margin(figure)
    if claim.alike:
        within = [e.p_within(limit) for e in each]
        all_of = None if None in within else max(p for p in within if p is not None)
        found = [(all_of, HOLDS, f"level within {limit} points")]
        found.append((_any_of([e.p_beyond(limit) for e in each]), FAILS, f"more than {limit} points"))
    elif evidence.effect > 0:
        found = [(evidence.p, HOLDS, "")]
    else:  # the dearest was picked by these same costs, so that it looks dearer than it is
        p = _any_of([e.p if e.p is None or e.effect < 0 else 1.0 for e in each]) if claim.dearest else evidence.p
        found = [(p, FAILS, "the other way round")]
    nil = None if claim.alike or claim.of == COST else evidence.p_within(NIL)
    if nil is not None and 2 * nil < ALPHA:  # its interval lies within
        found.append((2 * nil, FAILS, f"level within {NIL} points"))
    return min((one for one in found if one[0] is not None), default=(None, OPEN, ""))


def _widest(each: Sequence[Evidence]) -> Evidence | None:
    return max(each, key=lambda e: abs(e.effect), default=None)


def _any_of(ps: Sequence[float | None]) -> float | None:
    """The smallest, corrected for having been picked."""
    tested = [p for p in ps if p is not None]
    return min(1.0, len(tested) * min(tested)) if tested else None


def _weigh(claim: Claim, paired: Sequence[Pair], value: Value) -> Evidence | None:
    differences: dict[tuple[str, int], float] = {}
    for pair in paired:
        first, second = value(pair.first), value(pair.second)
        if first is None or second is None:
            continue
        if claim.of != COST:
            differences[pair.setting, pair.seed] = 100 * (first - second)
        elif _one_device([pair]) and first > 0 and second > 0:
            differences[pair.setting, pair.seed] = math.log(first / second)
    return weigh(differences)


def _is_contrary(claim: Claim, figure: str, effect: float) -> bool:
    return abs(effect) > margin(figure) + 1e-9 if claim.alike else effect <= 0  # 65.34 - 64.50 is 0.84


def _decide(draft: Finding, p: float | None, tests: int = 1) -> Finding:
    """The verdict of a draft by the p that counts, where it will be one of ``tests`` once it has the seeds."""
    if draft.evidence is None:
        return replace(draft, p=None, reason="no pair of runs", more=f"first make pairs: {draft.claim.command}")
    if p is not None and p < ALPHA:
        return replace(draft, p=p)
    lacking = next((e for e in draft.each if not e.enough), None)
    if lacking and not lacking.spread:
        more = "at least 2" if lacking.seeds < 2 else "unknown: do the runs of these seeds differ at all?"
    else:
        more = _more(draft, p / draft.p if p and draft.p else tests)
    return replace(draft, p=p, verdict=OPEN, reason=_too_few(lacking) if lacking else "it may be chance", more=more)


def _too_few(evidence: Evidence) -> str:
    if evidence.seeds < 2:
        return "one seed"
    return "the same difference in every seed" if evidence.pairs >= 3 else f"{evidence.pairs} pairs"


def _more(draft: Finding, correction: float) -> str:
    """Seeds that would settle it with 80 % power, if the effect and spread seen are the true ones."""
    spreads = [(e.effect, e.spread) for e in draft.each if e.spread]
    effects, tests, sides = [effect / spread for effect, spread in spreads], 1, 2
    if draft.claim.alike:
        limit, sides = margin(draft.figure), 1
        beyond = [(abs(effect) - limit) / spread for effect, spread in spreads if abs(effect) >= limit]
        effects = [(limit + side * effect) / spread for effect, spread in spreads for side in (-1, 1)]
        if beyond:
            effects, tests = [max(beyond)], len(spreads)
    seeds = min(e.seeds for e in draft.each)
    needed = seeds_needed(effects, ALPHA / max(1.0, correction) / tests, sides)
    if needed is None:
        return f"over {MOST_SEEDS - seeds}: about nil against its spread"
    return f"about {max(1, needed - seeds)}"


def _ratio(paired: Sequence[Pair], price: Price) -> float | None:
    """Geometric mean of first over second."""
    both = [(price.of(pair.first), price.of(pair.second)) for pair in paired]
    logs = [math.log(a / b) for a, b in both if a and b and a > 0 and b > 0]
    return math.exp(fmean(logs)) if logs else None


def _one_device(paired: Sequence[Pair]) -> bool:
    """Whether each pair ran on devices of one kind and number."""
    return all(device(pair.first) == device(pair.second) for pair in paired)


def _unfinished(claim: Claim, runs: Sequence[Run]) -> int:
    names = {name for comparison in claim.comparisons for name in comparison}
    lost = [run for run in runs if run.summary is None and run.state in ("failed", "diverged")]
    return sum(label(run) in names and (run.router == "dense" or claim.is_at(run.capacity)) for run in lost)
