"""A plain recommendation: the most accurate, the cheapest and the Pareto set, with what the runs cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_bench.monitor.units import MISSING, points, significant
from moe_bench.report.evidence import ALPHA, FEWEST_SEEDS, Evidence, weigh
from moe_bench.report.groups import Row, Section
from moe_bench.report.price import Price
from moe_bench.report.tables import Table

FIGURE = "val/prec1"
NAMED = 3  # so many rivals are named; more are counted
NOTE = (
    "The best of many by few seeds is flattered by chance. Behind: to the most accurate, paired over seeds, with its "
    "95 % interval. May be best: that test, at 5 % and without correction, leaves it open; it takes 3 seeds that "
    "both have. Costs are as measured on these machines."
)


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
        """Whether the runs leave open that it is as accurate as the best: one test a candidate, not corrected.

        On the seeds that both have it may even be ahead, where the best has more seeds.
        """
        behind = self.behind
        return behind is None or behind.p is None or behind.effect <= 0 or behind.p >= ALPHA

    @property
    def untested(self) -> bool:
        """For want of seeds, or of others than itself."""
        return self.behind is None or self.behind.p is None


@dataclass(frozen=True)
class Recommendation:
    """For one model; the first of ``candidates`` is the most accurate."""

    model: str
    price: Price
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


Advice = Sequence[tuple[str, Sequence[Recommendation]]]
"""A section's title, what is recommended there."""


def recommendations(section: Section) -> list[Recommendation]:
    """One a model with at least two rows. Rows without accuracy or cost are no candidates."""
    models = dict.fromkeys(row.model for row in section.rows)
    rows = {model: [row for row in section.rows if row.model == model and row.runs] for model in models}
    found = [_recommend(model, rows[model], section.price) for model in models]
    return [recommendation for recommendation in found if len(recommendation.candidates) > 1]


def advice(sections: Sequence[Section]) -> Advice:
    """Of each section, also of those of which nothing can be said."""
    return [(section.title, recommendations(section)) for section in sections]


def recommendation_lines(given: Advice) -> list[str]:
    """A paragraph for each section and model."""
    several = len(given) > 1
    return [(f"{title}: " if several else "") + in_words(one) for title, found in given for one in found]


def _recommend(model: str, rows: Sequence[Row], price: Price) -> Recommendation:
    usable = [(row, a.mean, c.mean) for row in rows if (a := row.mean(FIGURE)) and (c := row.cost(price))]
    usable.sort(key=lambda entry: (-entry[1], entry[2]))
    best = usable[0][0] if usable else None
    candidates = [
        Candidate(_name(row), 100 * accuracy, cost, _seeds(row), _behind(best, row)) for row, accuracy, cost in usable
    ]
    return Recommendation(model, price, candidates)


def _behind(best: Row | None, row: Row) -> Evidence | None:
    if best is None or best is row:
        return None
    return weigh({("best", seed): 100 * lead for seed, lead in best.lead(row, FIGURE).items() if seed is not None})


def _seeds(row: Row) -> int:
    """That have an accuracy; a run that does not say its seed is none."""
    return len(row.by_seed(FIGURE).keys() - {None})


def _name(row: Row) -> str:
    capacity = "" if row.router == "dense" or row.capacity is None else f" capacity {row.capacity:g}"
    return f"{row.router}{capacity} {row.variant}".strip()


def _dominates(other: Candidate, one: Candidate) -> bool:
    as_good = other.accuracy >= one.accuracy and other.cost <= one.cost
    return as_good and (other.accuracy > one.accuracy or other.cost < one.cost)


def in_words(found: Recommendation) -> str:
    """A paragraph: the most accurate, the cheapest that may be as good, the cheapest, and the Pareto set."""
    best, cheapest, price = found.best, found.cheapest, found.price
    frugal = min((c for c in found.candidates if c.may_be_as_good), key=lambda c: (c.cost, -c.accuracy))
    said = [f"{found.model}: the most accurate is {best.name}, {best.accuracy:.1f} % at {_cost(best, price)}."]
    said.append(_rivals(found))
    if frugal.cost < best.cost and (percent := round(100 * frugal.cost / best.cost)) < 100:
        said.append(f"Of these {frugal.name} is the cheapest: {_cost(frugal, price)}, {percent} % of that.")
    if cheapest not in (best, frugal):
        share = f"{100 * cheapest.cost / best.cost:.0f} % of the cost of the best"
        said.append(f"The cheapest of all is {_lack(cheapest)}, at {share}.")
    steps = "; ".join(f"{c.name} ({c.accuracy:.1f} %, {_figure(c.cost)})" for c in found.pareto)
    said.append(f"Worth their cost (Pareto set by means, the cheapest first, in {price.unit}): {steps}.")
    return " ".join(said)


def candidates_table(title: str, found: Sequence[Recommendation]) -> Table:
    """All settings, the most accurate of each model first, with what they lack and whether they may be the best."""
    headings = ["model", "setting", "seeds", "prec@1 %", found[0].price.unit, "behind, points", "may be best", "Pareto"]
    rows = [
        [
            recommendation.model,
            one.name,
            str(one.seeds),
            f"{one.accuracy:.1f}",
            significant(one.cost),
            MISSING if one is recommendation.best else _behind_text(one),
            _verdict(one, recommendation.best),
            "yes" if one in recommendation.pareto else MISSING,
        ]
        for recommendation in found
        for one in recommendation.candidates
    ]
    models = [row[0] for row in rows]
    breaks = [i for i in range(1, len(rows)) if models[i] != models[i - 1]]
    return Table(f"Candidates: {title}", headings, rows, [NOTE], breaks=breaks)


def _verdict(one: Candidate, best: Candidate) -> str:
    if one is best:
        return "yes"
    return "untested" if one.untested else "yes" if one.may_be_as_good else "no"


def _rivals(found: Recommendation) -> str:
    """From what the best cannot be told."""
    others = found.candidates[1:]
    rivals = [c for c in others if c.may_be_as_good]
    if not rivals:
        return "It is ahead of every other setting here."
    if max(c.seeds for c in found.candidates) < FEWEST_SEEDS:
        return f"One seed cannot tell it from the {_settings(len(rivals))}: repeat with seed=0,1,2 before you choose."
    if len(rivals) <= NAMED:
        return f"These runs cannot tell it from {', '.join(map(_lack, rivals))}."
    which = "any" if len(rivals) == len(others) else str(len(rivals))
    return f"These runs cannot tell it from {which} of the {_settings(len(others))}, the nearest {_lack(rivals[0])}."


def _settings(n: int) -> str:
    return f"{n} other settings" if n > 1 else "other setting"


def _cost(candidate: Candidate, price: Price) -> str:
    return f"{_figure(candidate.cost)} {price.unit}"


def _figure(cost: float) -> str:
    return significant(cost) if cost >= 1000 else f"{cost:.3g}"


def _lack(candidate: Candidate) -> str:
    points = " points" if candidate.behind else ""
    untested = ", too few seeds to test" if candidate.untested and candidate.behind and candidate.behind.half else ""
    return f"{candidate.name} ({_behind_text(candidate)}{points}{untested})"


def _behind_text(candidate: Candidate) -> str:
    behind = candidate.behind
    if behind is None:
        return "no seed in common"
    return points(-behind.effect) + (f" ± {behind.half:.2f}" if behind.half is not None else "")
