"""What was measured, and the same as JSON: every number with its unit at the end of its name. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from moe_bench.bench.cases import Case, ProbeCase
from moe_bench.bench.timing import Round, Spread, ratio, seconds

DENSE = "dense MLP"
OURS, OURS_FIXED = "moe-bench, all λ", "moe-bench, one λ"
EACH, FEW = "products, one a λ", "products, the fewest"
SKLEARN = "scikit-learn's Ridge"
PROBE_JOBS = (OURS, OURS_FIXED, EACH, FEW, SKLEARN)


def floor_name(rows: int) -> str:
    """Of the floor whose experts work on so many rows each."""
    return f"floor, {rows} rows"


@dataclass(frozen=True)
class Entry:
    """A layer of a case."""

    name: str
    package: str  # whose it is, with its version
    rows: int  # that each expert works on; a dense MLP works on as many in all


@dataclass(frozen=True)
class LeftOut:
    """A layer that was not measured."""

    package: str
    why: str


@dataclass(frozen=True)
class LayerTimes:
    """One case, filled while it is measured."""

    case: Case
    entries: dict[str, Entry] = field(default_factory=dict)
    rounds: dict[str, list[Round]] = field(default_factory=lambda: {"forward": [], "train": []})
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def any_round(self) -> bool:
        return any(self.rounds.values())

    def time(self, kind: str, name: str) -> Spread | None:
        """Seconds of a pass; None where no round is complete."""
        return seconds(self.rounds[kind], name) if self.rounds[kind] else None

    def over_floor(self, kind: str, name: str) -> Spread | None:
        """Over the floor that works on as many rows. None for the dense MLP, which has none."""
        return None if name == DENSE else self._over(kind, name, floor_name(self.entries[name].rows))

    def over_dense(self, kind: str, name: str) -> Spread | None:
        return self._over(kind, name, DENSE)

    def beyond_floor(self, name: str) -> int | None:
        """Peak bytes above the floor's. None for the dense MLP."""
        peak, floor = (self.peak_bytes.get(which) for which in (name, floor_name(self.entries[name].rows)))
        return None if name == DENSE or peak is None or floor is None else peak - floor

    def _over(self, kind: str, name: str, base: str) -> Spread | None:
        return ratio(self.rounds[kind], name, base) if self.rounds[kind] and base in self.entries else None

    def rows(self) -> list[dict[str, Any]]:
        """A record for each layer."""
        return [self._row(entry) for entry in self.entries.values()]

    def _row(self, entry: Entry) -> dict[str, Any]:
        row: dict[str, Any] = {"case": asdict(self.case), "layer": entry.name, "package": entry.package}
        row["rows_per_expert"] = entry.rows
        row["expert_flops"] = self.case.flops(entry.rows)
        for kind in self.rounds:
            row[kind] = {
                "rounds": len(self.rounds[kind]),
                "time_ms": spread_json(self.time(kind, entry.name), 1000),
                "over_floor": spread_json(self.over_floor(kind, entry.name)),
                "over_dense": spread_json(self.over_dense(kind, entry.name)),
            }
        row["train_peak_bytes"] = self.peak_bytes.get(entry.name)
        row["train_peak_beyond_floor_bytes"] = self.beyond_floor(entry.name)
        return row


@dataclass(frozen=True)
class RoutingTimes:
    """The parts of every router of one case, filled while they are measured. Calls are named "router/part"."""

    case: Case
    routers: list[str] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)  # always empty

    @property
    def any_round(self) -> bool:
        return bool(self.rounds)

    def time(self, router: str, part: str) -> Spread | None:
        """Seconds; None where the router has no such part or no round is complete."""
        name = f"{router}/{part}"
        return seconds(self.rounds, name) if self.rounds and name in self.rounds[0] else None

    def of_dense(self, router: str, part: str) -> Spread | None:
        """As a share of the dense MLP's forward pass in the same round."""
        name = f"{router}/{part}"
        return ratio(self.rounds, name, f"{DENSE}/forward") if self.rounds and name in self.rounds[0] else None

    def rows(self) -> list[dict[str, Any]]:
        """A record for each part of each router, and for the dense MLP."""
        names = [name.split("/") for name in (self.rounds[0] if self.rounds else ())]
        return [
            {
                "case": asdict(self.case),
                "router": router,
                "part": part,
                "rounds": len(self.rounds),
                "time_us": spread_json(self.time(router, part), 1e6),
                "over_dense": spread_json(self.of_dense(router, part)),
            }
            for router, part in names
        ]


@dataclass
class ProbeTimes:
    """A probe, its products and its rival, filled while they are measured."""

    case: ProbeCase
    penalties: int  # values of λ
    rounds: list[Round] = field(default_factory=list)
    products: int | None = None  # with all test rows that our probe makes for each draw
    difference: float | None = None  # the largest between our accuracies and scikit-learn's
    peak_bytes: int | None = None  # of our probe
    left_out: list[LeftOut] = field(default_factory=list)  # always empty

    @property
    def any_round(self) -> bool:
        return bool(self.rounds)

    def rows(self) -> list[dict[str, Any]]:
        """A record for each job."""
        about = {"penalties": self.penalties, "products": self.products, "accuracy_difference": self.difference}
        return [
            {
                "case": asdict(self.case),
                "job": job,
                "rounds": len(self.rounds),
                "time_s": spread_json(seconds(self.rounds, job)),
                "over_products": spread_json(ratio(self.rounds, job, EACH)),
                "over_fewest_products": spread_json(ratio(self.rounds, job, FEW)),
                "over_scikit_learn": spread_json(ratio(self.rounds, job, SKLEARN)),
                "peak_bytes": self.peak_bytes if job == OURS else None,
                **about,
            }
            for job in (PROBE_JOBS if self.rounds else ())
        ]


Times = LayerTimes | RoutingTimes | ProbeTimes


def spread_json(spread: Spread | None, scale: float = 1) -> dict[str, float] | None:
    """A median with its quartiles, in the unit that ``scale`` makes of it."""
    return None if spread is None else {name: scale * value for name, value in asdict(spread).items()}


def document(about: Mapping[str, Any], results: Sequence[Times]) -> dict[str, Any]:
    """All of one command: where and how it was measured, then the rows of every case."""
    left_out = [{"case": asdict(result.case), **asdict(one)} for result in results for one in result.left_out]
    return {**about, "left_out": left_out, "results": [row for result in results for row in result.rows()]}
