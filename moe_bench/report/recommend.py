"""A plain recommendation: the most accurate, the cheapest and the Pareto set, with what the runs cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from moe_bench.report.claims import DEVICE_DAYS
from moe_bench.report.evidence import ALPHA, Evidence, weigh
from moe_bench.report.groups import Row, Section

FLOPS = "flops/image"


@dataclass(frozen=True)
class Candidate:
    """A router at a capacity; ``behind`` is what it lacks to the most accurate, in points."""

    name: str
    accuracy: float  # mean over seeds, in percent
    cost: float
    seeds: int
    behind: Evidence | None

    @property
    def may_be_as_good(self) -> bool:
        """Whether the runs leave open that it is as accurate as the best: one test a candidate, not corrected."""
        return self.behind is None or self.behind.p is None or self.behind.p >= ALPHA


@dataclass(frozen=True)
class Recommendation:
    """For one model; the first of ``candidates`` is the most accurate."""

    model: str
    cost_figure: str
    candidates: list[Candidate]

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def cheapest(self) -> Candidate:
        return min(self.candidates, key=lambda c: (c.cost, -c.accuracy))

    @property
    def pareto(self) -> list[Candidate]:
        """Those that no other one beats in both accuracy and cost, by their means; the cheapest first."""
        kept = [c for c in self.candidates if not any(_dominates(other, c) for other in self.candidates)]
        return sorted(kept, key=lambda c: c.cost)


def recommendations(section: Section) -> list[Recommendation]:
    """One a model with at least two rows. Rows without accuracy or cost are no candidates."""
    models = dict.fromkeys(row.model for row in section.rows)
    found = [_recommend(model, [row for row in section.rows if row.model == model and row.runs]) for model in models]
    return [recommendation for recommendation in found if len(recommendation.candidates) > 1]


def _recommend(model: str, rows: Sequence[Row]) -> Recommendation:
    devices = {
        ((run.summary or {}).get("device"), (run.summary or {}).get("world_size")) for r in rows for run in r.runs
    }
    figure = DEVICE_DAYS if len(devices) == 1 else FLOPS
    usable = [(row, a.mean, c.mean) for row in rows if (a := row.mean("val/prec1")) and (c := row.mean(figure))]
    usable.sort(key=lambda entry: (-entry[1], entry[2]))
    best = usable[0][0] if usable else None
    candidates = [
        Candidate(_name(row), 100 * accuracy, cost, len(_by_seed(row)), _behind(best, row))
        for row, accuracy, cost in usable
    ]
    return Recommendation(model, figure, candidates)


def _behind(best: Row | None, row: Row) -> Evidence | None:
    if best is None or best is row:
        return None
    ours, theirs = _by_seed(best), _by_seed(row)
    return weigh({("best", seed): 100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs})


def _by_seed(row: Row) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for run in row.runs:
        if run.seed is not None and (value := run.number("val/prec1")) is not None:
            found.setdefault(run.seed, []).append(value)
    return {seed: fmean(values) for seed, values in found.items()}


def _name(row: Row) -> str:
    capacity = "" if row.router == "dense" or row.capacity is None else f" capacity {row.capacity:g}"
    return f"{row.router}{capacity} {row.variant}".strip()


def _dominates(other: Candidate, one: Candidate) -> bool:
    as_good = other.accuracy >= one.accuracy and other.cost <= one.cost
    return as_good and (other.accuracy > one.accuracy or other.cost < one.cost)


def in_words(found: Recommendation) -> list[str]:
    """Sentences, the most accurate first."""
    best, cheapest = found.best, found.cheapest
    unit = "device-days" if found.cost_figure == DEVICE_DAYS else "FLOP an image (devices differ)"
    others = [c for c in found.candidates[1:] if c.may_be_as_good]
    said = [
        f"{found.model}, for accuracy: {best.name}, {best.accuracy:.1f} % over {_seeds(best)}, {best.cost:.3g} {unit}. "
        + (f"These runs cannot tell it from {', '.join(map(_lack, others))}." if others else "No other may be as good.")
    ]
    if cheapest is not best:
        price = f"{cheapest.cost:.3g} {unit}, {cheapest.cost / best.cost:.0%} of that"
        said.append(f"{found.model}, for cost: {cheapest.name}, {price}; {_lack(cheapest)}.")
    steps = "; ".join(f"{c.name} ({c.accuracy:.1f} %, {c.cost:.3g})" for c in found.pareto)
    said.append(f"{found.model}, worth their cost (Pareto set by means, the cheapest first): {steps}.")
    return said


def _lack(candidate: Candidate) -> str:
    behind = candidate.behind
    if behind is None:
        return f"{candidate.name} (no seed in common)"
    half = f" ± {behind.half:.2f}" if behind.half is not None else ""
    return f"{candidate.name} ({-behind.effect:+.2f}{half} points)"


def _seeds(candidate: Candidate) -> str:
    return f"{candidate.seeds} seed{'s' * (candidate.seeds != 1)}"
