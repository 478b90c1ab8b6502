"""``ls``: one line a run, the newest last, where the eye is."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.text import Text

from moe_bench.monitor.units import MISSING, duration, percent
from moe_bench.report.collect import Collection, Run
from moe_bench.report.tables import main_probes

STYLES = {"running": "cyan", "finished": "green", "diverged": "red", "failed": "red", "killed": "red"}
GAP = "  "


def listing(collection: Collection, console: Console) -> list[Text]:
    """A line a run, as wide as it needs to be: a cut name cannot be copied. Two where a terminal is narrower."""
    probes = main_probes(collection.runs)[:1]
    headings = ["run", "state", "step", "when", "prec@1", *(column.heading.removesuffix(" %") for column in probes)]
    runs = sorted(collection.runs, key=_age, reverse=True)
    rows = [[*_facts(run), *(percent(run.number(column.figure)) for column in probes)] for run in runs]
    widths = [max(map(len, column)) for column in zip(headings, *rows)]
    stacked = console.is_terminal and len(_line(headings, widths)) > console.width
    lines = [Text(_line(headings, widths, stacked), style="dim")]
    for run, row in zip(runs, rows):
        line = Text(_line(row, widths, stacked))
        begin = (len(run.name) + 1 if stacked else widths[0]) + len(GAP)
        line.stylize(STYLES.get(run.state, ""), begin, begin + len(run.state))
        lines.append(line)
    return [*lines, Text(""), Text(tally(collection), style="dim")]


def tally(collection: Collection) -> str:
    """ "12 runs: 10 finished, 2 failed · 1 archived · damaged files: …"."""
    states = Counter(run.state for run in collection.runs)
    total = len(collection.runs)
    parts = [f"{total} run{'s' * (total != 1)}: {', '.join(f'{n} {state}' for state, n in states.most_common())}"]
    if collection.archived:
        parts.append(f"{collection.archived} archived (~1, ~2, …)")
    return " · ".join([*parts, *torn_note(collection)])


def torn_note(collection: Collection) -> list[str]:
    """Names the damaged files, the first five."""
    torn = collection.torn
    if not torn:
        return []
    named = ", ".join(f"{path.parent.name}/{path.name}" for path in torn[:5])
    more = f" and {len(torn) - 5} more" if len(torn) > 5 else ""
    return [f"{len(torn)} damaged file{'s' * (len(torn) != 1)} passed over: {named}{more}"]


def _facts(run: Run) -> list[str]:
    step = MISSING if run.step is None else f"{run.step}" + (f"/{run.steps}" if run.steps else "")
    return [run.name, run.state, step, _when(run), percent(run.number("val/prec1"))]


def _when(run: Run) -> str:
    """Time left while it runs, else how long ago it was last heard of."""
    if run.state == "running":
        return f"{duration(run.eta_s)} left" if run.eta_s is not None else "starting"
    return f"{duration(round(run.age_s))} ago" if run.age_s is not None else MISSING


def _age(run: Run) -> tuple[bool, float]:
    return run.state != "running", run.age_s or 0.0


def _line(cells: list[str], widths: list[int], stacked: bool = False) -> str:
    """Words to the left, figures to the right; ``stacked``: the name above the rest."""
    if stacked:
        return f"{cells[0]}\n{_line(['', *cells[1:]], [0, *widths[1:]])}"
    aligned = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
    return GAP.join(aligned).rstrip()
