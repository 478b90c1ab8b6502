"""The command ``moe-bench``: its first word is a verb, or else everything is settings and it trains.

Nothing heavy is imported until it is needed, so that help, printed settings and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench import __version__
from moe_bench.arguments import Parser
from moe_bench.config.argv import normalise
from moe_bench.config.groups import conf_dir, find_groups, meant
from moe_bench.config.problems import did_you_mean
from moe_bench.errors import ConfigError
from moe_bench.guard import guarded
from moe_bench.parent import end_with_it
from moe_bench.ranks import find_rank, refuse_to_repeat
from moe_bench.secrets import redact

if TYPE_CHECKING:
    from moe_bench.config import Config
    from moe_bench.config.sweep import Plan

VERBS = {
    "ls": ("list the runs and how far they are", "moe_bench.report.cli", ["ls"]),
    "report": ("tables over all finished runs", "moe_bench.report.cli", ["report"]),
    "estimate": ("what a run will take: size, work, memory, disk, time", "moe_bench.estimate.cli", []),
    "doctor": ("look at all that a run needs here", "moe_bench.doctor.cli", []),
    "sync": ("upload to W&B what runs kept offline", "moe_bench.report.sync", []),
    "dashboard": ("make a W&B workspace and report of the runs", "moe_bench.report.dashboard", []),
    "shards": ("make, index or verify shards of pictures", "moe_bench.data.cli", []),
    "bench": ("time and memory of layers and routers", "moe_bench.bench.cli", []),
    "explain": ("draw where a run, or each router, sends patches of pictures", "moe_bench.explain.cli", []),
    "export": ("write a finished run's weights as one safetensors file", "moe_bench.export", []),
    "evaluate": ("a finished run at other capacities, one image a group", "moe_bench.evaluation.cli", []),
    "probe": ("probe a finished run on more data", "moe_bench.probe.cli", []),
}
"""Verb → what it is for, the module whose ``run(argv)`` does it, and the words that it reads before the user's."""


def main() -> int:
    """The whole command, from ``sys.argv`` to its exit code (see ``__main__`` for how it is started)."""
    os.umask(os.umask(0o022) | stat.S_IWOTH)  # whatever the shell's: nobody but its group may write what it leaves
    end_with_it()
    return guarded(lambda: dispatch(sys.argv[1:]))


def dispatch(words: list[str]) -> int:
    """Do what the words after the program's name say."""
    verb = words[0] if words and words[0] and "=" not in words[0] and words[0][0] not in "-+~" else None
    if verb in VERBS:
        _, module, before = VERBS[verb]
        return int(import_module(module).run([*before, *words[1:]]))
    if verb is not None:
        raise ConfigError(
            f"there is no verb {verb!r}. {instead(verb)} To train, type settings as key=value; see moe-bench --help"
        )
    return run_or_show(words)


def instead(word: str) -> str:
    """What someone may have meant by a word that is no verb."""
    groups = find_groups(None)
    if word in groups:
        return f"{word} is a setting: type {meant(word, groups)}, for example."
    close = did_you_mean(word, VERBS) or meant(word, groups)
    return f"Did you mean `moe-bench {close}`?" if close else f"Verbs are {', '.join(VERBS)}."


def run_or_show(words: list[str]) -> int:
    """Settings and flags: print something, or train."""
    args = parse(words)
    if args.version:
        print(f"moe-bench {__version__}")
    elif args.help:
        from moe_bench.usage import usage

        print(usage({verb: what for verb, (what, _, _) in VERBS.items()}, args.config_dir))
    elif args.hydra_help or args.info or args.shell_completion or args.cfg in ("hydra", "all"):
        through_hydra(words, args.config_dir)
    elif args.cfg:
        show_settings(args)
    else:
        return train(args)
    return 0


def train(args: argparse.Namespace) -> int:
    """Train one model, or a grid of them."""
    # Ranks that Lightning starts repeat our command line, so what they read must already be normalised.
    args.overrides = normalise(args.overrides, find_groups(args.config_dir))
    sys.argv[1:] = [*flags_of(args), *args.overrides]

    asked = plan(args)
    if asked.is_sweep:
        refuse_to_repeat()
    if asked.is_sweep and asked.external and not args.dry_run:
        return through_hydra(sys.argv[1:], args.config_dir)
    if asked.is_sweep or args.dry_run:
        from moe_bench.launch import sweep

        return sweep.run(asked, args.config_dir, args.dry_run)

    def action() -> int:
        start(asked.config, args.overrides, sys.argv[1:])
        return 0

    return guarded(action, folder=run_folder(asked.config))


def start(config: Config, overrides: list[str], words: Sequence[str]) -> Any:
    """Train, as one of the ranks of a run or as the process that starts them with ``words``; returns val/prec1."""
    train, runtime = import_module("moe_bench.train"), config.runtime
    rank = find_rank(runtime.devices, runtime.nodes)
    if rank is not None:
        return train.run(config, overrides, rank)
    if not train.skipped(config):
        from moe_bench.config.here import refuse_what_is_missing
        from moe_bench.launch import ranks

        refuse_what_is_missing(config)
        ranks.run(words, runtime.devices, run_folder(config))
    return train.prec1(config)


def plan(args: argparse.Namespace) -> Plan:
    """The runs that a command line asks for, checked. Raises ConfigError with all problems."""
    from moe_bench.config import sweep  # and Hydra with it

    return sweep.plan(args.overrides, args.config_dir, multirun=args.multirun, single=args.run)


def run_folder(config: Config) -> Path:
    """Where a run keeps everything."""
    from moe_bench.config import run_id

    return Path(config.runs_dir) / run_id(config)


def show_settings(args: argparse.Namespace) -> None:
    """Print every setting of a run as YAML, with its run folder on top."""
    from omegaconf import OmegaConf

    from moe_bench.config import to_dict

    args.run = True  # of a sweep preset, the values beneath the sweep
    config = plan(args).config
    tree: Any = OmegaConf.create(to_dict(config))
    if args.package not in (None, "_global_"):
        tree = OmegaConf.select(tree, args.package)
        if tree is None:
            raise ConfigError(
                f"there is no setting {args.package!r} to show: --package is one of {', '.join(to_dict(config))}"
            )
    print(f"# {run_folder(config)}")
    print(redact(OmegaConf.to_yaml(tree).rstrip() if OmegaConf.is_config(tree) else tree))


def through_hydra(words: list[str], config_dir: str | None) -> int:
    """Let Hydra itself do it: its own information, shell completion, and launchers and sweepers from outside."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException

    def run_one(_composed: Any) -> float | None:
        from moe_bench.config import load

        overrides = list(HydraConfig.get().overrides.task)
        flags = ["--run", *(["--config-dir", config_dir] if config_dir else [])]
        return start(load(overrides, config_dir), overrides, [*flags, *overrides])

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, instead of as a traceback and exit code 1
    sys.argv[1:] = words
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(run_one)()
    except (HydraException, ValueError) as error:
        raise ConfigError(f"Hydra cannot do this: {error}") from error
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Separate flags, which are Hydra's, from overrides."""
    parser = Parser(prog="moe-bench", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")  # the settings are always shown resolved
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--info", "-i", nargs="?", const="all")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    args = parser.parse_intermixed_args(words)
    if args.multirun and (args.cfg or args.run):
        parser.error("--multirun runs a grid, so it does not go with --cfg or --run")
    return args


def flags_of(args: argparse.Namespace) -> list[str]:
    """The flags that a rank or a launcher must repeat."""
    flags = [flag for flag, given in (("--multirun", args.multirun), ("--run", args.run)) if given]
    return flags + (["--config-dir", args.config_dir] if args.config_dir else [])
