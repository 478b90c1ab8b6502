"""The verb ``dashboard``: a W&B workspace and a W&B report over all runs of a project, made from what the runs hold."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moe_bench.arguments import Parser
from moe_bench.errors import ConfigError
from moe_bench.monitor.atomic import make_writable, write_json
from moe_bench.monitor.console import make_console
from moe_bench.monitor.wandb_server import answers, has_key, server_url
from moe_bench.report.collect import Run, collect
from moe_bench.secrets import redact

EXAMPLES = """examples:
  moe-bench dashboard                          of the runs under runs/, in the W&B project that they name
  moe-bench dashboard /scratch/runs --entity my-team --project my-routers
  moe-bench dashboard --spec dashboard.json    the same as JSON, into a file; asks no server, needs no key

The runs themselves go to W&B while they train, or later with moe-bench sync. Panels are for the probes and routers that
the runs have, so type this again when there are new ones.
"""


def run(argv: list[str]) -> int:
    """Runs ``moe-bench dashboard ARGV``; returns the exit code. Raises ConfigError for what cannot be done."""
    args = _parser().parse_args(argv)
    runs = _runs(args.runs_dir)
    entity, project = args.entity or _named(runs, "entity"), args.project or _named(runs, "project")
    if find_spec("wandb_workspaces") is None:
        raise ConfigError(
            "the package wandb-workspaces is not installed, which makes dashboards. Type: pip install wandb-workspaces"
        )
    if args.spec:
        make_writable(args.spec.parent, parents=True, remedy="Name another file with --spec.")
    else:
        refuse_what_cannot_be()
        entity = entity or _default_entity()

    from moe_bench.report.panels import figures_of, report, spec, workspace

    figures = figures_of(runs)
    made = workspace(entity, project, figures), report(entity, project, figures)
    if args.spec:
        write_json(args.spec, {"workspace": spec(made[0]), "report": spec(made[1])})
        print(f"written to {args.spec}: a workspace and a report of {entity or 'your account'}/{project}")
        return 0
    for name, one in zip(("workspace", "report"), made):
        make_console().print(f"{name}: {_saved(one)}", soft_wrap=True)
    return 0


def _runs(folder: Path) -> list[Run]:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}: give the folder of your runs, as in `dashboard runs`")
    runs = collect(folder).runs
    if not runs:
        raise ConfigError(f"{folder} holds no runs yet. Train one: `moe-bench router=soft runs_dir={folder}`")
    return runs


def _named(runs: list[Run], key: str) -> str:
    """What the runs' settings say, "" where they say nothing. Raises ConfigError where they differ."""
    said = Counter(str(run.config.get("logger", {}).get(key) or "") for run in runs)
    if len(said) > 1:
        listed = ", ".join(f"{name or 'none'} ({count} runs)" for name, count in said.most_common())
        raise ConfigError(f"the runs name several values of logger.{key}: {listed}. Choose one with --{key}")
    return next(iter(said))


def refuse_what_cannot_be() -> None:
    """Raises ConfigError: there is no key, W&B is to stay offline, or its server does not answer."""
    server = server_url(os.environ)
    host = urlsplit(server).hostname
    instead = "Nothing was saved. To see what would be: moe-bench dashboard --spec dashboard.json"
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        raise ConfigError(f"WANDB_MODE={os.environ['WANDB_MODE']}, and a dashboard is online only. {instead}")
    if not has_key(server, os.environ):
        raise ConfigError(
            f"there is no key for {host}, where the dashboard would be. Type `wandb login`, or set WANDB_API_KEY "
            f"(and WANDB_BASE_URL for a server of your own), then the same command again. {instead}"
        )
    if not answers(server, os.environ):
        raise ConfigError(f"{host} does not answer. Type the same command again where it can be reached. {instead}")


def _default_entity() -> str:
    import wandb

    return _asked(lambda: str(wandb.Api().default_entity or ""))


def _saved(view: Any) -> str:
    """Save a workspace or report; its address."""
    return _asked(lambda: str(view.save().url))


def _asked(ask: Callable[[], str]) -> str:
    """What W&B answers. Raises ConfigError in its own words if it refuses."""
    try:
        return ask()
    except Exception as error:  # of its own, of requests, of its GraphQL client
        words = " ".join(str(redact(str(error))).split())[:300] or type(error).__name__
        raise ConfigError(f"W&B refused: {words.rstrip('.')}. Check your key, --entity and --project") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench dashboard",
        description="Make a W&B workspace and a report: accuracy against cost, routers by capacity, routing health.",
        epilog=EXAMPLES,
    )
    parser.add_argument("runs_dir", nargs="?", type=Path, default=Path("runs"), help="folder of runs [runs]")
    parser.add_argument("--entity", metavar="NAME", help="user or team at W&B [the runs', or your own]")
    parser.add_argument("--project", metavar="NAME", help="project at W&B [the runs']")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="write JSON here instead of saving at W&B")
    return parser
