"""The verbs ``ls`` and ``report``. They read JSON and nothing else: no torch, no Hydra."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from moe_bench.arguments import Parser
from moe_bench.errors import ConfigError
from moe_bench.monitor.console import make_console
from moe_bench.report.collect import Collection, collect
from moe_bench.report.groups import sections
from moe_bench.report.listing import listing, torn_note
from moe_bench.report.paper import published
from moe_bench.report.render import terminal
from moe_bench.report.tables import Table, describe_state

MOST = 12
VERBS = {"ls": "list the runs and how far they are", "report": "tables and figures over all finished runs"}


def run(argv: list[str]) -> int:
    """``argv`` begins with the verb. Returns the exit code; raises MoeBenchError for what a user can mend."""
    verb, *words = argv
    args = _parsed(verb, words)
    collection = _collect(args.runs_dir, verb)
    return _ls(collection) if verb == "ls" else _report(collection, args.out, args.paper)


def _ls(collection: Collection) -> int:
    console = make_console()
    for line in listing(collection, console):
        console.print(line, soft_wrap=True)
    return 0


def _report(collection: Collection, out: Path | None, with_paper: bool) -> int:
    """Tables on the terminal, everything in the folder."""
    from moe_bench.report.answers import answer, lengths, short_tables
    from moe_bench.report.contents import report, result_tables, tables_of_the_paper
    from moe_bench.report.figures import begin
    from moe_bench.report.folder import write_report
    from moe_bench.report.recommend import advice, recommendation_lines
    from moe_bench.report.spreadsheet import all_rows
    from moe_bench.report.verdicts import as_json, judged

    gc.freeze()  # the runs are read and stay: looking through all of them again and again would take half a second
    console = make_console()
    grouped = sections(collection.runs)
    paper = published() if with_paper else None
    figures = begin(grouped, paper)
    found, given = judged(collection.runs), advice(grouped)
    _print_some(console, result_tables(grouped), "tables")
    _print_some(console, tables_of_the_paper(grouped, paper) if paper else [], "of the paper's tables")
    _print_some(console, recommendation_lines(given), "recommendations")
    answers: list[Table | str] = []
    for block in found:
        answers += [answer(block), *short_tables(block)]
    _print_some(console, [*answers, *lengths(found)], "parts of the findings")
    others = [run for section in grouped for run in section.others]
    _print_some(
        console, [f"Not counted: {run.name} – {describe_state(run)}" for run in others], "runs not counted", "\n"
    )
    for note in [*(paper.notes if paper else []), *torn_note(collection)]:
        console.print(Text(note, style="dim"))
    folder = out or collection.root / "report"
    extra = {"report.csv": all_rows(grouped), "findings.json": as_json(found, given)}
    written = write_report(folder, report(collection, grouped, paper, given, found, figures), extra)
    console.print(f"written: {folder / 'report.html'}, report.md and {len(written) - 2} more", soft_wrap=True)
    return 0


def _print_some(console: Console, parts: Sequence[Table | str], what: str, end: str = "\n\n") -> None:
    """The first ``MOST`` of them: a terminal is no place for hundreds of tables."""
    for part in parts[:MOST]:
        if isinstance(part, str):
            console.print(Text(part), soft_wrap=True, end=end)
        else:
            for line in [*terminal(part, console.width), ""]:
                console.print(line)
    if len(parts) > MOST:
        console.print(f"These are the first {MOST} of {len(parts):,} {what}; report.md has all.\n", style="bold")


def _collect(runs_dir: Path, verb: str) -> Collection:
    if not runs_dir.is_dir():
        raise ConfigError(
            f"there is no folder {runs_dir} here. Name the folder of your runs: `moe-bench {verb} DIR`; "
            "if there are none yet, `moe-bench` trains one"
        )
    collection = collect(runs_dir)
    if not collection.runs:
        raise ConfigError(f"{runs_dir} holds no runs yet. Train one: `moe-bench router=soft runs_dir={runs_dir}`")
    return collection


def _parsed(verb: str, words: list[str]) -> argparse.Namespace:
    parser = Parser(prog=f"moe-bench {verb}", description=VERBS[verb])
    parser.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    if verb == "report":
        parser.add_argument("--out", type=Path, help="where the report goes (default: RUNS_DIR/report)")
        parser.add_argument("--paper", action="store_true", help="the paper's values beside ours")
    return parser.parse_args(words)
