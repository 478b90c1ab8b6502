"""Findings as tables: each claim at a glance, a metric in detail, and prec@1 over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moe_bench.monitor.units import MISSING, points
from moe_bench.report.claims import COST, margin
from moe_bench.report.collect import Run
from moe_bench.report.findings import FAILS, HOLDS, NIL, Finding
from moe_bench.report.paper import published
from moe_bench.report.paper_claims import in_the_paper, published_runs
from moe_bench.report.price import Price
from moe_bench.report.tables import Table
from moe_bench.report.trend import Moment, appears
from moe_bench.report.wording import SHORT, claim_words, effect, is_dense, metric, short

NAMED = 6  # exceptions that a note names; findings.json has all
DENSE_NOTE = (
    "Equal compute only at capacity 1: a higher capacity costs more, see FLOPs ×. Each router is a test of its own."
)
TREND_NOTE = (
    "The same test at each validation of the same runs, not corrected for their number. The learning rate is not "
    "annealed there, so this is not what a shorter training would reach."
)

LENGTH_NOTE = (
    "In points. Each length was trained to its end, with its learning rate annealed: this, not an early validation of "
    "a long training, says at what length a finding appears."
)


def overview(title: str, found: Sequence[Finding], price: Price, asked: Sequence[str] = ()) -> Table:
    """A row a claim, a column a metric; a claim about cost stands under the cost.

    ``asked`` are the words of a command line that make runs on the same data, in the same way.
    """
    metrics = list(dict.fromkeys(f.figure for f in found if f.claim.of != COST and f.evidence))
    by_claim: dict[str, list[Finding]] = {}
    for f in found:
        by_claim.setdefault(f.claim.name, []).append(f)
    rows = []
    for its in by_claim.values():
        if any(f.evidence for f in its):
            at = {f.figure: short(f) for f in its if f.claim.of != COST}
            rows.append([claim_words(its[0]), _seeds(its), *(at.get(name, MISSING) for name in metrics), *_prices(its)])
    headings = ["claim", "seeds", *map(metric, metrics), f"{price.unit} ×", "FLOPs ×"]
    probes = sorted(range(1, len(metrics)), key=lambda i: (metrics[i].endswith("/10shot"), -i))
    spare = [len(headings) - 1, *(2 + i for i in probes)]
    notes = [*_overview_notes(found), *_no_pairs(found, asked), *_price_note(found, price)]
    return Table(title, headings, rows, notes, labels=1, spare=spare)


def _seeds(its: Sequence[Finding]) -> str:
    return next((str(f.evidence.seeds) for f in its if f.evidence), MISSING)


def _prices(its: Sequence[Finding]) -> list[str]:
    first = its[0]
    if first.claim.of == COST:
        return [short(first).partition(" (")[0], MISSING]  # the interval stands in the details
    return [
        MISSING if ratio is None or first.claim.alike else f"{ratio:.2f}"
        for ratio in (first.cost_ratio, first.flops_ratio)
    ]


def _overview_notes(found: Sequence[Finding]) -> list[str]:
    notes = [
        "Accuracy in points: mean difference over seeds ± its 95 % interval; ×: cost of the first side over the second."
    ]
    if any(short(f).startswith("open") for f in found):
        one = all(f.evidence.seeds == 1 for f in found if f.evidence)
        notes.append("open: not enough evidence" + (", as always on one seed." if one else " either way."))
    if any(short(f).startswith("level") for f in found):
        notes.append(f"level: shown to lie within ± {NIL} points, so a difference, if any, is smaller than that.")
    if any(f.claim.alike for f in found if f.evidence):
        probe = f"{margin('val/prec1')} points on prec@1, {margin('probe/')} on few-shot accuracy"
        notes.append(
            "The affinity matters little: the figure is the widest gap between two affinities; it holds where all are "
            f"shown to be within the paper's own, {probe}, which is wide where accuracy is low."
        )
    if found and is_dense(found[0]):
        notes.append("Equal compute only at capacity 1.")
    return notes


def _no_pairs(found: Sequence[Finding], asked: Sequence[str]) -> list[str]:
    """How to make the runs of claims that there are none of; dense runs are asked for in the answer."""
    tested = {f.claim for f in found if f.evidence}
    missing = dict.fromkeys(f.claim for f in found if f.claim not in tested and not is_dense(f))
    notes = [f"{claim.sentence}: no pairs. They come from {claim.command}" for claim in missing]
    if notes and asked:
        notes.append(f"To be like the runs above, each of these commands needs as well: {' '.join(asked)}")
    return notes


def _price_note(found: Sequence[Finding], price: Price) -> list[str]:
    return [price.note] if price.note and any(f.evidence for f in found) else []


def details(title: str, found: Sequence[Finding]) -> Table:
    """A row a claim on one metric."""
    paper = published_runs(published())
    cost = found[0].claim.of == COST
    headings = ["claim", "verdict", "cost ×" if cost else "points", "± over settings", "settings agree", "seeds", "p"]
    headings += ["cost ×", "FLOPs ×", "more seeds", "paper"]
    rows = [_row(f, _paper_cell(f, paper)) for f in found if f.evidence]
    notes = [DENSE_NOTE] if any(map(is_dense, found)) else []
    notes += [note for f in found if not is_dense(f) for note in _notes(f)]
    return Table(f"Findings on {metric(found[0].figure)}: {title}", headings, rows, notes, labels=2)


def _notes(f: Finding) -> list[str]:
    """What does not fit into a row: settings in which it is not so, and what was not counted."""
    left_out = f.evidence.left_out if f.evidence else 0
    more = f" and {len(f.contrary) - NAMED} more" if len(f.contrary) > NAMED else ""
    notes = [f"not in {'; '.join(f.contrary[:NAMED])}{more}"] if f.contrary else []
    notes += [f"pairs outside the block of seeds × settings: {left_out}"] if left_out else []
    notes += (
        [f"runs of these routers that failed or diverged and count nowhere: {f.unfinished}"] if f.unfinished else []
    )
    return [f"{f.claim.sentence}: {note}." for note in notes]


def _row(f: Finding, paper: str) -> list[str]:
    e = f.evidence
    settings = len(e.by_setting) if e else 0
    opposed = sum(setting in f.contrary for setting in e.by_setting) if e else 0
    return [
        f"{claim_words(f)} over dense" if is_dense(f) else f.claim.sentence,
        SHORT[f.verdict] + (f": {f.reason}" if f.reason else ""),
        effect(f),
        MISSING if e is None or e.over_settings is None or f.claim.of == COST else f"{e.over_settings:.2f}",
        f"{settings - opposed} of {settings}",
        MISSING if e is None else str(e.seeds),
        MISSING if f.p is None else f"{f.p:.2g}",
        *(MISSING if ratio is None or f.claim.alike else f"{ratio:.2f}" for ratio in (f.cost_ratio, f.flops_ratio)),
        f.more.partition(":")[0] or MISSING,  # findings.json has the reason
        paper,
    ]


def _paper_cell(f: Finding, paper: list[Run]) -> str:
    """The paper's mean, and in how many of its settings it is the other way."""
    theirs = in_the_paper(f.claim, f.figure, paper)
    if theirs.evidence is None:
        return MISSING
    exceptions = f", not in {len(theirs.contrary)}" if theirs.contrary else ""
    return f"{effect(theirs)}{exceptions}"


def over_training(title: str, found: Sequence[Finding], trends: Mapping[str, Sequence[Moment]]) -> Table:
    """prec@1 at six of the validations, and from which on the verdict is the final one."""
    steps = sorted({moment.step for moments in trends.values() for moment in moments})
    shown = sorted({steps[round(i * (len(steps) - 1) / 5)] for i in range(6)})
    by_name = {f.claim.name: f for f in found if f.figure == "val/prec1"}
    rows = []
    for name, moments in trends.items():
        at = {moment.step: moment for moment in moments}
        since = appears(by_name[name], moments)
        cells = [f"{points(at[step].effect)}{_mark(at[step].verdict)}" if step in at else MISSING for step in shown]
        rows.append([by_name[name].claim.sentence, MISSING if since is None else f"step {since:,}", *cells])
    headings = ["claim", "appears at", *(f"step {step:,}" for step in shown)]
    notes = [TREND_NOTE, "In points. ✓ holds, ✗ does not hold, no mark: not enough evidence."]
    return Table(f"When findings on prec@1 appear: {title}", headings, rows, notes, labels=2)


def by_length(data: str, found: Mapping[str, Sequence[Finding]]) -> Table:
    """prec@1 by length of training, each length being runs of its own."""
    named = {f.claim.name: f for its in found.values() for f in its if f.figure == "val/prec1" and f.evidence}
    at = {(length, f.claim.name): short(f) for length, its in found.items() for f in its if f.figure == "val/prec1"}
    rows = [[claim_words(f), *(at.get((length, name), MISSING) for length in found)] for name, f in named.items()]
    return Table(f"Findings on prec@1 by length of training: {data}", ["claim", *found], rows, [LENGTH_NOTE], labels=1)


def _mark(verdict: str) -> str:
    return {HOLDS: " ✓", FAILS: " ✗"}.get(verdict, "")
