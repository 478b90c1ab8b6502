"""``moe-bench doctor [SETTINGS…]``: one line for each thing that a run of these settings needs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moe_bench.arguments import Parser
from moe_bench.monitor.console import make_console

if TYPE_CHECKING:
    from moe_bench.config.sweep import Plan
    from moe_bench.doctor.finding import Finding

HELP = """\
examples:
  moe-bench doctor                                         this machine and the default run
  moe-bench doctor data=shards data.path=DIR model=b16     what this run needs
  moe-bench doctor -m seed=0,1,2 hydra/launcher=submitit_slurm

Each line: ok, note (worth knowing; runs work) or off (a run will fail), what was found, and what to do. Writes nothing.
Exit code 0: nothing is off. 2: something is, or a setting is wrong.
"""


def run(argv: list[str]) -> int:
    """Runs ``moe-bench doctor ARGV``; returns the exit code. Raises ConfigError where the settings cannot be."""
    args = _parser().parse_intermixed_args(argv)
    from moe_bench.config import sweep

    asked = sweep.plan(args.settings, args.config_dir, multirun=args.multirun)
    console, off, notes = make_console(), 0, 0
    for finding in examine(asked):
        console.print(finding.line(), soft_wrap=True)
        off, notes = off + (finding.mark == "off"), notes + (finding.mark == "note")
    console.print(f"\n{off} off, {notes} worth knowing" if off or notes else "\nall is well")
    return 2 if off else 0


def examine(asked: Plan) -> Iterator[Finding]:
    """The findings, the quick ones first."""
    from moe_bench.config.launchers import SlurmLauncher
    from moe_bench.doctor import machine, packages, pictures, services

    configs = list(asked.configs)
    yield packages.python()
    yield from packages.packages()
    yield from machine.folders(configs)
    yield from pictures.pictures(configs)
    yield services.slurm(isinstance(asked.launcher, SlurmLauncher))
    yield services.wandb(asked.config)
    yield from services.unsynced(Path(asked.config.runs_dir))
    yield packages.devices(configs)
    yield machine.memory()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench doctor",
        description="Look at everything that a run needs: packages, devices, room, pictures, SLURM, W&B.",
        epilog=HELP,
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="as for a run: group=option, key=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="the settings are of a sweep")
    parser.add_argument("--config-dir", metavar="DIR", help="your own YAML")
    return parser
