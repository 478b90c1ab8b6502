"""The text of ``moe-bench --help``: verbs, worked examples, every option of every group in its own file's words."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from moe_bench import __version__
from moe_bench.config.groups import Groups, conf_dir, description, find_groups

HEAD = """\
moe-bench {version}: train a vision mixture of experts, probe it few-shot, and keep a run you can read.

  moe-bench [GROUP=OPTION] [KEY=VALUE] ...     train one model; the same command again resumes or skips
  moe-bench -m KEY=A,B GROUP=C,D ...           train a grid, each run in a process of its own
  moe-bench VERB ...                           {verbs}

Examples
  moe-bench                                                          the default: minutes on two CPU cores
  moe-bench router=sinkhorn_ec model=b16 capacity=2                  another router, model, capacity
  moe-bench capacity=1.5 recipe.steps=2000 seed=1                    any number, any single setting
  moe-bench experiment=tiny_imagenet data.path=DIR probe.sets=[DIR]  your own pictures
  moe-bench -m router=soft,sinkhorn_ec capacity=1,2 seed=0,1,2       12 runs
  moe-bench -m seed=0,1,2 hydra.launcher.jobs=3                      three at once, each with its share of the machine
  moe-bench sweep=routers                                            all six routers at capacity 1 and 2
  moe-bench router.impl=my_package.my_module:MyRouter                a router of your own
  moe-bench --cfg job router=soft                                    print every setting, run nothing
  moe-bench doctor data=shards data.path=DIR                         whether this machine has all that the run needs
  moe-bench report runs/                                             compare what is finished
  moe-bench sync runs/                                               upload to W&B what was kept offline
"""

TAIL = """\
Flags
  -m, --multirun         several values are several runs    --cfg job         print the settings and stop
  --dry-run              list the runs, how far each is, what is left of time and disk, and stop
  --config-dir DIR       your own YAML, as DIR/router/x.yaml (or $MOE_BENCH_CONF)
  --version, --help      --info, --hydra-help: Hydra's own
  completion of words:   eval "$(moe-bench -sc install=bash)"      (or zsh, fish)
"""

GROUPS = (
    ("router", "who goes to which expert"),
    ("model", "the vision transformer"),
    ("capacity", "slots of an expert over its fair share; any number"),
    ("data", "labelled pictures to learn from"),
    ("probe", "how the frozen features are judged"),
    ("recipe", "optimiser, schedule, length, loss, augmentation"),
    ("runtime", "devices"),
    ("logger", "besides metrics.jsonl"),
    ("experiment", "presets of several groups"),
    ("sweep", "grids of runs"),
    (
        "hydra/launcher",
        "who starts the runs of a grid; settings as hydra.launcher.jobs=N, hydra.launcher.timeout_min=N",
    ),
    ("debug", "smaller or shorter"),
)
"""The groups in reading order, each with a word of explanation; a user's own groups follow."""

NOT_CHOSEN = ("hydra", "recipe/tuned")
"""Groups of which a user chooses no option: Hydra's own, and what a recipe has for one model, which comes with it."""


def usage(verbs: Mapping[str, str], config_dir: str | None = None) -> str:
    """The whole help text. ``verbs`` has a description for each."""
    groups = find_groups(config_dir)
    chosen = _defaults()
    chosen["hydra/launcher"] = chosen.pop("override hydra/launcher")
    known = [name for name, _ in GROUPS]
    own = [(name, "your own") for name in groups if name not in known and not name.startswith(NOT_CHOSEN)]
    sections = [_section(name, what, groups, chosen.get(name)) for name, what in (*GROUPS, *own)]
    head = HEAD.format(version=__version__, verbs=f"\n{' ' * 47}".join(f"{v}: {what}" for v, what in verbs.items()))
    return "\n".join([head, "Groups and their options (* is the default)", *sections, "", TAIL])


def _section(group: str, what: str, groups: Groups, default: str | None) -> str:
    lines = [f"  {group}: {what}"]
    for option, file in groups.get(group, {}).items():
        lines.append(f"  {'*' if option == default else ' '} {option:<14} {description(file)}")
    return "\n".join(lines)


def _defaults() -> dict[str, str]:
    """Group → its default option, as ``conf/config.yaml`` has it."""
    entries = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: option for entry in entries if isinstance(entry, dict) for group, option in entry.items()}
