"""Runs that differ in one thing: the same data, recipe, model, capacity and seed, but for what a claim is about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from moe_bench.report.claims import PLAN, Claim
from moe_bench.report.collect import Run
from moe_bench.report.settings import ONLY_EXPERTS, differing, in_words

Value = Callable[[Run], float | None]
"""A figure of a run, if it has it."""


@dataclass(frozen=True)
class Pair:
    """``setting`` is what all its seeds share, in words."""

    setting: str
    comparison: tuple[str, str]
    seed: int
    first: Run
    second: Run


def label(run: Run) -> str:
    """The router, and whether the plan weighs the outputs where the paper has softmax do it."""
    plan = run.science.get("router.combine") == "plan" and run.router in ("sinkhorn_tc", "sinkhorn_ec", "sparse_ec")
    return run.router + PLAN if plan else run.router


def blocks(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs on the same data and equally long; other settings may differ from pair to pair, never within a pair."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        data = {key: value for key, value in run.science.items() if key.startswith("data.")}
        recipe = run.config.get("recipe")
        length = [recipe.get("steps"), recipe.get("batch")] if isinstance(recipe, dict) else []
        found.setdefault(json.dumps([run.data, data, length], sort_keys=True, default=str), []).append(run)
    return sorted(found.values(), key=lambda group: -len(group))


@dataclass(frozen=True)
class Candidates:
    """Runs of one label that may be in a pair, each with the settings of its router; ``main`` are those of most."""

    runs: list[tuple[Run, str]]
    main: str


def candidates(runs: Iterable[Run]) -> dict[str, Candidates]:
    """Finished runs with a seed, by label: made once for the many claims that are asked of them."""
    found: dict[str, list[tuple[Run, str]]] = {}
    for run in runs:
        if run.summary is not None and run.seed is not None:
            found.setdefault(label(run), []).append((run, _variant(run)))
    return {name: Candidates(of, _main(variant for _, variant in of)) for name, of in found.items()}


def pairs(claim: Claim, among: Mapping[str, Candidates]) -> list[Pair]:
    """Every pair that ``claim`` is about; of equal runs the first."""
    return [pair for names in claim.comparisons for pair in _pairs(claim, names, among)]


def _pairs(claim: Claim, names: tuple[str, str], among: Mapping[str, Candidates]) -> list[Pair]:
    same_router = names[0].removesuffix(PLAN) == names[1].removesuffix(PLAN)
    dense = "dense" in names

    def side(number: int) -> Iterator[tuple[str, int, Run]]:
        of = among.get(names[number], Candidates([], ""))
        for run, variant in of.runs:
            asked = claim.capacities[number] if claim.capacities else run.capacity
            if (run.router == "dense" or run.capacity == asked) and (same_router or variant == of.main):
                yield _place(run, claim, dense, variant if same_router else ""), run.seed or 0, run

    seconds: dict[tuple[str, int], Run] = {}
    for place, seed, run in side(1):
        seconds.setdefault((place, seed), run)
    both: dict[tuple[str, str], dict[int, tuple[Run, Run]]] = {}  # by setting: mixtures of several share a dense run
    for place, seed, run in side(0):
        if (place, seed) in seconds:
            both.setdefault((place, _of_experts(run)), {}).setdefault(seed, (run, seconds[place, seed]))
    words = _in_words([next(iter(of.values()))[0] for of in both.values()], names, claim, same_router)
    return [Pair(said, names, seed, *runs) for said, of in zip(words, both.values()) for seed, runs in of.items()]


def _place(run: Run, claim: Claim, dense: bool, variant: str) -> str:
    """Everything in which the two sides must be equal."""
    apart = ONLY_EXPERTS if dense else ("capacity.factor",)
    kept = {k: v for k, v in run.science.items() if k != "seed" and not k.startswith(("router.", *apart))}
    capacity = None if dense or claim.capacities else run.capacity
    return json.dumps([run.model, capacity, variant, kept], sort_keys=True, default=str)


def _of_experts(run: Run) -> str:
    return json.dumps({k: v for k, v in run.science.items() if k.startswith(ONLY_EXPERTS)}, sort_keys=True, default=str)


def _variant(run: Run) -> str:
    apart = ("router.name", "router.combine")
    router = {k: v for k, v in run.science.items() if k.startswith("router.") and k not in apart}
    return json.dumps(router, sort_keys=True, default=str)


def _main(variants: Iterable[str]) -> str:
    """Of the settings that a router was tried with, those of most runs; the fewest settings where as many."""
    count = Counter(variants)
    return max(count, key=lambda v: (count[v], -len(v), v))


def _in_words(runs: Sequence[Run], names: tuple[str, str], claim: Claim, same_router: bool) -> list[str]:
    """For a run of each setting, the words that tell it from the others: of the same model, what they differ in."""

    def tells(key: str) -> bool:
        return key != "capacity.factor" and (same_router or not key.startswith("router.")) and key != "router.combine"

    models = dict.fromkeys(run.model for run in runs)
    keys = {model: differing([run for run in runs if run.model == model], tells) for model in models}
    return [_words(run, names, claim, keys[run.model]) for run in runs]


def _words(run: Run, names: tuple[str, str], claim: Claim, telling: list[str]) -> str:
    alike = names[0] == names[1]
    routers = names[0] if alike else f"{names[0]} over {names[1]}"
    capacity = [] if (claim.capacities and alike) or not run.capacity else [f"capacity {run.capacity:g}"]
    return ", ".join([routers, run.model, *capacity, *([in_words(run, telling)] if telling else [])])


def against_dearest(found: Sequence[Pair], cost_of: Value) -> list[Pair]:
    """In each place, only the other router of the highest mean cost over seeds: chosen once, not seed by seed."""
    costs: dict[str, dict[str, list[float]]] = {}
    for pair in found:
        if (cost := cost_of(pair.second)) is not None:
            costs.setdefault(_where(pair), {}).setdefault(pair.comparison[1], []).append(cost)
    dearest = {where: max(of, key=lambda name: fmean(of[name])) for where, of in costs.items()}
    return [pair for pair in found if dearest.get(_where(pair)) == pair.comparison[1]]


def _where(pair: Pair) -> str:
    """Its setting without the routers."""
    return pair.setting.partition(", ")[2]
