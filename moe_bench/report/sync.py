"""The verb ``sync``: what runs kept offline for W&B goes there, the attempts of a run in their order, each once."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from moe_bench.arguments import Parser
from moe_bench.errors import ConfigError
from moe_bench.monitor.console import make_console
from moe_bench.monitor.wandb_offline import attempts, is_synced
from moe_bench.monitor.wandb_server import answers, has_key, server_url
from moe_bench.report.collect import Run, collect
from moe_bench.report.upload import Outcome, upload

HELP = """\
examples:
  moe-bench sync                       all runs under runs/
  moe-bench sync runs/NAME             one run
  moe-bench sync /scratch/runs --list  what would be uploaded; asks no server

A run keeps its name as its id at W&B, and its attempts are joined there. What is uploaded already is passed over, and
so is a run that is still running. Exit code 0: nothing is left to upload. 2: something is, and its reason is told.
"""


@dataclass
class Found:
    """What there is to upload: attempts by run; and how many attempts are uploaded, how many runs still running."""

    pending: dict[Path, list[Path]] = field(default_factory=dict)
    synced: int = 0
    running: int = 0


def run(argv: list[str]) -> int:
    """Runs ``moe-bench sync ARGV``; returns the exit code. Raises ConfigError where no upload can begin."""
    args = _parser().parse_args(argv)
    found = find(args.where)
    console = make_console()
    failed = 0
    if found.pending and not args.list:
        refuse_what_cannot_be()
    for folder, files in found.pending.items():
        outcome = Outcome(0) if args.list else upload(files)
        failed += bool(outcome.failure)
        console.print(_line(folder, len(files), outcome, args.list), soft_wrap=True)
    console.print(tally(found, failed, args.list))
    return 2 if failed else 0


def find(where: list[Path]) -> Found:
    """The attempts under run folders and folders of runs. Raises ConfigError for one that is not there."""
    found = Found()
    for folder in where:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}: give runs or the folder of your runs, as in `sync runs`")
        for one in collect(folder).runs:
            _sort_in(found, one)
    return found


def _sort_in(found: Found, one: Run) -> None:
    files = attempts(one.path)
    pending = [file for file in files if not is_synced(file)]
    found.synced += len(files) - len(pending)
    if pending and one.state == "running":
        found.running += 1
    elif pending:
        found.pending[one.path] = pending


def refuse_what_cannot_be() -> None:
    """Raises ConfigError: there is no W&B, no key, or no answer; each with what to do."""
    server = server_url(os.environ)
    host = urlsplit(server).hostname
    if find_spec("wandb") is None:
        raise ConfigError("the package wandb is not installed. Nothing was uploaded. Type: pip install wandb")
    if not has_key(server, os.environ):
        raise ConfigError(
            f"there is no key for {host}. Nothing was uploaded.\n"
            "  with an account:        wandb login\n"
            "  in a script:            export WANDB_API_KEY=…   (from https://wandb.ai/authorize)\n"
            "  with your own server:   export WANDB_BASE_URL=https://…\n"
            "Then type the same command again. Without W&B, metrics.jsonl in each run has every row."
        )
    if not answers(server, os.environ):
        raise ConfigError(
            f"{host} does not answer. Nothing was uploaded, nothing is lost: type the same command again where "
            "it can be reached, or set WANDB_BASE_URL to your own server"
        )


def tally(found: Found, failed: int, only_list: bool) -> str:
    """ "3 runs uploaded, 1 failed · 2 attempts were uploaded before · 1 run is still running"."""
    done = len(found.pending) - failed
    parts = [f"{done} run{'s' * (done != 1)} {'to upload' if only_list else 'uploaded'}"]
    parts[0] += f", {failed} failed" if failed else ""
    if found.synced:
        parts.append(f"{_attempts(found.synced)} uploaded before")
    if found.running:
        parts.append(f"{found.running} still running: upload when it has ended")
    return " · ".join(parts)


def _line(folder: Path, files: int, outcome: Outcome, only_list: bool) -> str:
    if only_list:
        return f"{folder}  {_attempts(files)}"
    if outcome.failure:
        return f"{folder}  failed after {outcome.uploaded} of {_attempts(files)}: {outcome.failure}"
    return f"{folder}  {_attempts(files)} uploaded  {outcome.url}".rstrip()


def _attempts(number: int) -> str:
    return f"{number} attempt{'s' * (number != 1)}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench sync",
        description="Upload to Weights & Biases what runs kept offline.",
        epilog=HELP,
    )
    parser.add_argument(
        "where", nargs="*", type=Path, default=[Path("runs")], metavar="RUN", help="runs, or folders of runs [runs]"
    )
    parser.add_argument("--list", action="store_true", help="list what would be uploaded and stop")
    return parser
