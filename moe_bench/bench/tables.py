"""What was measured, for the terminal: a table a case, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from moe_bench.bench.results import (
    DENSE,
    EACH,
    FEW,
    OURS,
    PROBE_JOBS,
    SKLEARN,
    LayerTimes,
    ProbeTimes,
    RoutingTimes,
    Times,
)
from moe_bench.bench.timing import Spread, ratio, seconds
from moe_bench.monitor.units import MISSING, percent, significant

PARTS = ("affinity", "choice", "both", "router", "dispatch", "combine")

LAYERS_NOTE = (
    "forward: evaluation, no graph · train: forward and backward of one layer, without optimiser · "
    "floor: the same experts over ready-made rows, as many, without a router · dense: an MLP that does as much work on "
    "every token · ratios: median over rounds of layer ÷ other in the same round (quartiles) · peak: memory "
    "that train takes beyond weights and input, gradients included; MB = 10⁶ bytes"
)
ROUTING_NOTE = (
    "Forward, µs, medians over rounds · affinity, choice: logits given; both: the two in one call · router: from the "
    "tokens, with gate and losses · % of dense: router over the dense MLP's forward in the same round (quartiles) · "
    "dispatch, combine: rows to slots and back"
)
PROBE_NOTE = (
    "Each job on the same draws: few-shot accuracy for every λ · products, one a λ: AᵀA and the scores of all test "
    "rows, by one matrix a λ · the fewest: the same with as many matrices as our probe needs for all λ · scikit-learn: "
    "StandardScaler, and Ridge(alpha=λ).fit().predict() in a loop over λ · ratios: median over rounds of job ÷ other "
    "in the same round (quartiles)"
)


def tables(about: Mapping[str, Any], results: Sequence[Times]) -> list[RenderableType]:
    """Everything, line by line; nothing where nothing was measured."""
    if not results:
        return []
    device, versions = about["device"], about["versions"]
    threads = f"{device['threads']} thread{'s' * (device['threads'] > 1)}"
    where = f"{device['name']} ({device['type']}) · {threads} · torch {versions['torch']} · {about['date'][:10]}"
    lines: list[RenderableType] = [Text(where), Text("")]
    for result in results:
        table, note = _table_and_note(result)
        lines += [*table, Text("")]
    return [*lines, Text(note, style="dim")]


def _table_and_note(result: Times) -> tuple[list[RenderableType], str]:
    if isinstance(result, ProbeTimes):
        return probe_table(result), PROBE_NOTE
    if isinstance(result, RoutingTimes):
        return routing_table(result), ROUTING_NOTE
    return layers_table(result), LAYERS_NOTE


def layers_table(times: LayerTimes) -> list[RenderableType]:
    """Of one case, with what was left out."""
    table = _table(
        ["layer", "rows", "forward ms", "÷ floor", "÷ dense", "train ms", "÷ floor", "÷ dense", "peak MB", "− floor"]
    )
    for name, entry in times.entries.items():
        cells = [name, str(entry.rows)]
        for kind in ("forward", "train"):
            cells.append(_median(times.time(kind, name), 1e3))
            cells.append(_with_quartiles(times.over_floor(kind, name)))
            cells.append(_ratio(times.over_dense(kind, name)))
        table.add_row(*cells, _megabytes(times.peak_bytes.get(name)), _megabytes(times.beyond_floor(name)))
    left = [Text(f"left out: {one.package}: {one.why}", style="dim") for one in times.left_out]
    return [_title(times), table, *left]


def routing_table(times: RoutingTimes) -> list[RenderableType]:
    """Of one case."""
    table = _table(["router", *(f"{part} µs" for part in PARTS), "% of dense"])
    for router in times.routers:
        cells = [_median(times.time(router, part), 1e6, digits=1) for part in PARTS]
        table.add_row(router, *cells, _share(times.of_dense(router, "router")))
    dense = times.time(DENSE, "forward")
    return [_title(times), table, Text(f"{DENSE}: {_median(dense, 1e3)} ms", style="dim")]


def probe_table(times: ProbeTimes) -> list[RenderableType]:
    """Of one case, with how far the accuracies are from each other."""
    table = _table(["job", "s", "÷ products, one a λ", "÷ the fewest", "÷ scikit-learn"])
    for job in PROBE_JOBS:
        ratios = (_with_quartiles(ratio(times.rounds, job, base)) for base in (EACH, FEW, SKLEARN))
        table.add_row(job, _median(seconds(times.rounds, job), 1), *ratios)
    products = f"{times.products} products for {times.penalties} λ"
    peak = f"{OURS}: {_megabytes(times.peak_bytes)} MB at its peak"
    apart = f"accuracies at most {significant(times.difference)} from scikit-learn's"
    return [_title(times), table, Text(f"{products} · {peak} · {apart}", style="dim")]


def _title(times: Times) -> Text:
    return Text(f"{times.case} · {_rounds(times)} rounds", style="bold")


def _rounds(times: Times) -> str:
    """How many there are, which differs between the passes where someone interrupted."""
    if not isinstance(times, LayerTimes):
        return str(len(times.rounds))
    forward, train = (len(times.rounds[kind]) for kind in ("forward", "train"))
    return str(forward) if forward == train else f"{forward} forward and {train} training"


def _table(headings: Sequence[str]) -> Table:
    """Words to the left, figures to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _median(spread: Spread | None, scale: float, digits: int = 3) -> str:
    return MISSING if spread is None else significant(scale * spread.median, digits)


def _ratio(spread: Spread | None) -> str:
    return MISSING if spread is None else f"{spread.median:.2f}"


def _with_quartiles(spread: Spread | None) -> str:
    return MISSING if spread is None else f"{spread.median:.2f} ({spread.q1:.2f}–{spread.q3:.2f})"


def _share(spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    return f"{percent(spread.median)} ({100 * spread.q1:.1f}–{100 * spread.q3:.1f})"


def _megabytes(count: int | None) -> str:
    return MISSING if count is None else f"{count / 1e6:,.1f}"
