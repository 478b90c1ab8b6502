"""The verbs ``ls`` and ``report``. They read JSON and nothing else: no torch, no Hydra."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from rich.text import Text

from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.monitor.console import make_console
from moe_bench.report.collect import Collection, collect
from moe_bench.report.groups import sections
from moe_bench.report.listing import listing, tally, torn_note
from moe_bench.report.paper import published
from moe_bench.report.render import csv_text, markdown, terminal
from moe_bench.report.tables import result_table


def run(argv: list[str]) -> int:
    """``argv`` begins with the verb. Returns the exit code; raises MoeBenchError for what a user can mend."""
    args = _parser().parse_args(argv)
    collection = _collect(args.runs_dir, args.verb)
    return _ls(collection) if args.verb == "ls" else _report(collection, args.out, args.paper)


def _ls(collection: Collection) -> int:
    console = make_console()
    for line in listing(collection, console):
        console.print(line, soft_wrap=True)
    return 0


def _report(collection: Collection, out: Path | None, with_paper: bool) -> int:
    console = make_console()
    grouped = sections(collection.runs)
    paper = published() if with_paper else None
    tables = [result_table(section, paper) for section in grouped]
    for table in tables:
        for line in terminal(table, console.width):
            console.print(line)
        console.print()
    reading = [HOW_TO_READ, *(paper.notes if paper else [])]
    for note in reading[1:]:
        console.print(Text(note, style="dim"))
    folder = out or collection.root / "report"
    page = markdown("moe-bench report", tables, [f"Folder {collection.root}: {tally(collection)}.", *reading])
    _write(folder, {"report.md": page, "report.csv": csv_text(grouped)})
    for note in torn_note(collection):
        console.print(note)
    console.print(f"written: {folder / 'report.md'} and report.csv", soft_wrap=True)
    return 0


HOW_TO_READ = (
    "Each row is a mean over seeds ± their sample standard deviation; a row of one seed has none. Runs on other data "
    "or with another recipe are in another table. – is a gap. Accuracies are in percent of the whole validation or "
    "test set; device-days are devices × training seconds / 86,400; GFLOP/img is a forward pass."
)


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


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"cannot write the report to {folder}: {error.strerror or error}. Choose a place with --out DIR"
        ) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. {self.format_usage().strip()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="moe-bench")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ls = verbs.add_parser("ls", help="list the runs and how far they are")
    report = verbs.add_parser("report", help="tables over all finished runs")
    for verb in (ls, report):
        verb.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    report.add_argument("--out", type=Path, help="where report.md and report.csv go (default: RUNS_DIR/report)")
    report.add_argument("--paper", action="store_true", help="the published values beside ours")
    return parser
