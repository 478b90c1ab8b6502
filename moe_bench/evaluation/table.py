"""What was measured, for the terminal: a line a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_bench.monitor.units import MISSING, percent

COLUMNS = ("setting", "slots", "prec@1", "loss", "Δ prec@1, points", "predictions changed", "compared with")
NOTE = (
    "Δ: difference of prec@1 in points with its 95 % interval over pictures (paired) · predictions changed: share of "
    "pictures with another first answer"
)


def table(document: Mapping[str, Any]) -> str:
    """The whole text: the run, its settings, few-shot scores where there are any, and what cannot be."""
    rows = document["settings"]
    parts = [_head(document), _aligned([COLUMNS, *(_row(row) for row in rows)]), NOTE]
    if rows[0]["probe"]:
        parts.append(_few_shot(rows))
    parts += _not_measured(document["refused"])
    parts += document["remarks"]
    return "\n\n".join([*parts[:2], "\n".join(parts[2:])])


def _head(document: Mapping[str, Any]) -> str:
    own = document["settings"][0]
    groups = f"capacity {own['capacity']:g}, {own['group_images']} image{'s' * (own['group_images'] > 1)} a group"
    chosen = "" if own["k"] is None else f", k = {own['k']}"
    bad = f" ({document['bad']} could not be decoded)" if document["bad"] else ""
    told = "dense" if document["router"] == "dense" else groups + chosen
    return (
        f"{document['run_id']}: weights of step {document['step']:,}\n"
        f"{document['pictures']:,} validation pictures{bad} · as trained: {told}"
    )


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    change = row["change"]
    slots = MISSING if row["slots"] is None else str(row["slots"])
    cells = (row["words"], slots, percent(row["prec1"], 2), f"{row['loss']:.4f}")
    if change is None:
        return (*cells, MISSING, MISSING, MISSING)
    difference = f"{100 * change['prec1']:+.2f} ± {100 * change['ci95']:.2f}"
    return (*cells, difference, percent(change["changed"], 2), row["compared_with"])


def _not_measured(refused: Sequence[Mapping[str, str]]) -> list[str]:
    """A line a reason, however many settings it keeps out."""
    kept_out: dict[str, list[str]] = {}
    for one in refused:
        kept_out.setdefault(one["why"], []).append(one["setting"])
    return [f"not measured: {'; '.join(several)}: {why}" for why, several in kept_out.items()]


def _few_shot(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [f"{one['dataset']} {one['shots']}-shot" for one in rows[0]["probe"]]
    lines = [("setting", *names), *((row["words"], *map(_score, row["probe"])) for row in rows if row["probe"])]
    draws = max(one["protocol"]["draws"] for one in rows[0]["probe"])
    return "\n" + _aligned(lines) + ("\nmean ± standard deviation over draws\n" if draws > 1 else "\n1 draw\n")


def _score(one: Mapping[str, Any]) -> str:
    spread = f" ± {100 * one['std']:.1f}" if one["protocol"]["draws"] > 1 else ""
    return f"{100 * one['accuracy']:.1f}{spread} %"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, figures to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
