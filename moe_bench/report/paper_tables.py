"""Results in the form of the paper's Tables 1 to 8: for each model one table upstream and one for each few-shot set.

Beside each accuracy stands its gap to Softmax Token Choice and Softmax Expert Choice of the same capacity, since gaps,
unlike levels, can be compared with the paper's. For b32, b16 and l16 the published value stands beside ours and routers
that the paper has and we have not are gaps; other models stand beside the published gaps of all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moe_bench.monitor.units import MISSING
from moe_bench.report.groups import Mean, Row, Section, mean_of, order
from moe_bench.report.paper import DAYS, MODELS, PREC1, SHOTS, Published
from moe_bench.report.settings import is_as_named, same_model
from moe_bench.report.tables import (
    UPSTREAM,
    Cell,
    Column,
    Table,
    capacity_text,
    cost_column,
    device_notes,
    floor_notes,
    heading,
    probe_columns,
    router_text,
    value_cell,
)

NUMBERS = {  # in the paper, where 10-shot of b16 and l16 has two each
    "b32": ("Table 1", "Table 4"),
    "b16": ("Table 2", "Tables 5 and 6"),
    "l16": ("Table 3", "Tables 7 and 8"),
}
REFERENCES = ("softmax_tc", "softmax_ec")

Block = list[tuple[str, list[Cell]]]  # columns: heading and cells


def paper_tables(section: Section, published: Published | None = None) -> list[Table]:
    """Upstream tables of all models, then their few-shot tables; none of the latter without a probe."""
    models = dict.fromkeys(row.model for row in section.rows)
    rows = {model: _rows(section, model, published) for model in models}
    upstream = [_upstream(section, model, rows[model], published) for model in models]
    return upstream + [table for model in models for table in _few_shot(section, model, rows[model], published)]


def gap(row: Row, reference: Row, figure: str) -> Mean | None:
    """Mean of the differences ``row`` - ``reference`` over the seeds that both have; None if they share none."""
    return mean_of(list(row.lead(reference, figure).values()))


def _rows(section: Section, model: str, published: Published | None) -> list[Row]:
    rows = [row for row in section.rows if row.model == model]
    have = {(row.router, row.capacity) for row in rows}
    asked = published.cells(model) if published else []
    gaps = [Row(router, model, capacity, "", []) for router, capacity in asked if (router, capacity) not in have]
    return sorted([*rows, *gaps], key=lambda row: order(row, {}))


def _upstream(section: Section, model: str, rows: list[Row], published: Published | None) -> Table:
    days = cost_column(section.price)
    block = [*_measure(rows, UPSTREAM, published, PREC1), _column(rows, days)]
    if published and model in MODELS:
        block.append(("paper TPUv3-days", _published(rows, published, DAYS)))
    number = NUMBERS.get(model, ("", ""))[0]
    notes = device_notes((run for row in rows for run in row.runs), section.price)
    return _table(section, f"{model} upstream", number, rows, block, notes)


def _few_shot(section: Section, model: str, rows: list[Row], published: Published | None) -> list[Table]:
    """One table for each data set, with all its numbers of shots; the paper has ten."""
    runs = [run for row in rows for run in row.runs]
    by_data: dict[str, Block] = {}
    for probe in probe_columns(runs):
        data, _, shots = probe.figure.removeprefix("probe/").rpartition("/")
        column = replace(probe, heading=probe.heading.removeprefix(data).strip())  # the title says on what
        block = _measure(rows, column, published if shots == "10shot" else None, SHOTS)
        by_data.setdefault(data, []).extend(block)
    number = NUMBERS.get(model, ("", ""))[1]
    return [
        _table(section, f"{model} few-shot on {data}", number, rows, block, floor_notes(runs, data))
        for data, block in by_data.items()
    ]


def _table(section: Section, kind: str, number: str, rows: list[Row], block: Block, notes: list[str]) -> Table:
    name = f"{number} {kind}".strip()
    headings = ["c", "router", "seeds", *(name for name, _ in block)]
    labels = [[capacity_text(row.capacity), router_text(row), str(row.seeds or MISSING)] for row in rows]
    cells = [[*label, *row] for label, *row in zip(labels, *(cells for _, cells in block))]
    breaks = [i for i in range(1, len(rows)) if rows[i].capacity != rows[i - 1].capacity]
    gaps = [i for i in reversed(range(len(headings))) if "Δ" in headings[i]]
    spare = sorted(gaps, key=lambda i: headings[i].startswith(("prec@1", "10-shot", "paper")))
    return Table(f"{name}: {section.title}", headings, cells, notes, breaks=breaks, spare=spare, name=name)


def _measure(rows: list[Row], column: Column, published: Published | None = None, figure: str = "") -> Block:
    """An accuracy and its gaps, each followed by what the paper has for it; no gaps to a router that nobody ran."""
    block = [_column(rows, column)]
    if published and rows[0].model in MODELS:
        block.append(("paper %", _published(rows, published, figure)))
    for reference in REFERENCES:
        gaps = [_gaps(rows, column, reference)]
        if published:
            gaps.append(_published_gaps(rows, published, figure, reference))
        block += gaps if any(cell != MISSING for _, cells in gaps for cell in cells) else []
    return block


def _column(rows: Sequence[Row], column: Column) -> tuple[str, list[Cell]]:
    cells = [value_cell(row.mean(column.figure), column, row.seeds) for row in rows]
    return heading(column, cells), cells


def _gaps(rows: list[Row], column: Column, reference: str) -> tuple[str, list[Cell]]:
    difference = Column(
        f"{column.heading.removesuffix(' %')} Δ {reference}", column.figure, column.scale, column.decimals
    )
    cells = [_gap_cell(row, _reference(rows, row, reference), difference) for row in rows]
    return heading(difference, cells), cells


def _gap_cell(row: Row, reference: Row | None, column: Column) -> Cell:
    if reference is None or reference is row:
        return MISSING
    return value_cell(gap(row, reference, column.figure), column, row.seeds, sign="+")


def _reference(rows: list[Row], row: Row, router: str) -> Row | None:
    """The row of ``router`` at the model settings and capacity of ``row``; of several, the one that says the same."""
    found = [other for other in rows if (other.router, other.capacity) == (router, row.capacity) and _alike(row, other)]
    return found[0] if len(found) == 1 else next((other for other in found if other.variant == row.variant), None)


def _alike(row: Row, other: Row) -> bool:
    return bool(row.runs and other.runs) and same_model(row.runs[0], other.runs[0])


def _published(rows: list[Row], published: Published, figure: str) -> list[Cell]:
    return [published.text(figure, row.model, _in_the_paper(row), row.capacity) for row in rows]


def _published_gaps(rows: list[Row], published: Published, figure: str, reference: str) -> tuple[str, list[Cell]]:
    models = [rows[0].model] if rows[0].model in MODELS else MODELS
    gaps = [[published.gap(figure, m, _in_the_paper(row), row.capacity, reference) for m in models] for row in rows]
    cells: list[Cell] = [MISSING if set(found) == {MISSING} else " / ".join(found) for found in gaps]
    return f"paper Δ {reference}" + (f", {' / '.join(models)}" if len(models) > 1 else ""), cells


def _in_the_paper(row: Row) -> str:
    """The router of which the paper speaks there; none where settings of ours make it another one."""
    return row.router if not row.runs or is_as_named(row.runs[0]) else ""
