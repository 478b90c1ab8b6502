"""``moe-bench explain RUN``: where a trained run's routers send the patches of real pictures, drawn and counted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moe_bench.arguments import Parser
from moe_bench.config.plugins import blaming_own_code
from moe_bench.config.schema import SoftRouterConfig
from moe_bench.errors import ConfigError
from moe_bench.monitor.atomic import make_writable, read_json
from moe_bench.monitor.units import MISSING, percent
from moe_bench.training.trained import load_model, run_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from moe_bench.config import Config
    from moe_bench.data.index import ShardIndex
    from moe_bench.explain.seen import Seen
    from moe_bench.explain.specific import Specific

EXAMPLES = """examples:
  moe-bench explain runs/NAME                          pictures of every MoE layer in runs/NAME/routing/
  moe-bench explain runs/NAME --images ~/shards/birds  on your pictures: val-*.tar or test-*.tar
  moe-bench explain runs/NAME --wandb                  and in the run's W&B; kept offline where it is
  moe-bench explain routers --help                     another question: all routers on the same tokens, drawn

for each MoE layer:
  LAYER-patches  which patches of a few pictures go to which expert, what was dropped and what nobody takes
  LAYER-experts  the patches that each expert likes best, where in the picture its tokens are, its classes
  LAYER-classes  how many times its fair share of an expert each class has
Soft MoE has LAYER-dispatch and LAYER-combine instead of the first. Experts are numbered from 1.
"""


@dataclass(frozen=True)
class Shown:
    """The pictures that are counted: which of a split, of what, and their classes' names."""

    index: ShardIndex
    data: str
    numbers: np.ndarray  # (N,)
    names: list[str]


def run(argv: list[str]) -> int:
    """Draws pictures of each layer, prints what they show; returns the exit code. Raises MoeBenchError."""
    args = _parser().parse_args(argv)
    config = run_config(args.run)
    with blaming_own_code(config.router):
        return _explain(args, config)


def _explain(args: argparse.Namespace, config: Config) -> int:
    if args.wandb and args.format != "png":
        raise ConfigError("--wandb --format svg: W&B shows png only. Leave --format out, or type the command twice")
    if args.wandb and (read_json(args.run / "status.json") or {}).get("state") == "running":
        raise ConfigError(f"{args.run} is still running, and W&B takes one writer a run. Leave --wandb out, or wait")
    model, step = load_model(args.run, config)
    from moe_bench.model import MoE

    if not any(isinstance(module, MoE) for module in model.modules()):
        print(f"{args.run} (router={config.router.name}) has no MoE layer: there is nothing to show.")
        return 0

    from moe_bench.build import tolerance
    from moe_bench.data.progress import progress
    from moe_bench.explain.draw import style
    from moe_bench.explain.seen import look
    from moe_bench.explain.specific import specific
    from moe_bench.training.place import torch_device

    shown = _pictures(args, config)
    make_writable(_place(args), parents=True, remedy="Choose a place with --out FOLDER")
    few = np.unique(np.linspace(0, len(shown.numbers) - 1, args.pictures).round().astype(np.int64))
    with progress("pictures", len(shown.numbers), "pictures") as advance:
        pictures, layers, bad = look(
            model,
            shown.index,
            shown.numbers,
            few,
            resize=config.data.resize,
            crop=config.data.crop,
            device=torch_device(args.device),
            tolerance=tolerance(config.data),
            advance=advance,
        )
    found = [specific(seen.load, shown.index.labels[shown.numbers]) for seen in layers]
    print(_head(args.run, config, shown, step, bad), summary(layers, found, shown.names), sep="\n\n")
    with style():
        files = _draw(args, config, shown, pictures, layers, found)
    print(f"\nwritten to {files[0].parent}: {', '.join(path.name for path in files)}")
    return _to_wandb(args.run, config, files, step) if args.wandb else 0


def _place(args: argparse.Namespace) -> Path:
    folder: Path = args.out or args.run / "routing"
    return folder


def _pictures(args: argparse.Namespace, config: Config) -> Shown:
    """Spread evenly over the validation pictures of the run, or over those of ``--images``."""
    from moe_bench.build import pictures
    from moe_bench.data.sources import read_meta
    from moe_bench.explain.routers import named_pictures

    if args.images:
        index, data = named_pictures(args.images)
    else:
        own = pictures(config.data)
        index, data = own.val, own.name
    for flag, value in (("--count", args.count), ("--pictures", args.pictures)):
        if value < 1:
            raise ConfigError(f"{flag} {value}: give at least 1; there are {len(index):,} pictures to choose from")
    count = min(max(args.count, args.pictures), len(index))
    numbers = np.linspace(0, len(index) - 1, count).round().astype(np.int64)
    return Shown(index, data, numbers, class_names(read_meta(Path(index.shards[0]).parent), index.num_classes))


def class_names(meta: dict[str, object], classes: int) -> list[str]:
    """What meta.json calls them, as far as the first comma, else "class 7"."""
    names = [f"class {number}" for number in range(classes)]
    listed = meta.get("classes")
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("index"), int) and 0 <= one["index"] < classes:
            said = str(one.get("name") or one.get("id") or "").split(",")[0]
            printable = "".join(letter for letter in said if letter.isprintable())[:24].strip()
            names[one["index"]] = printable or names[one["index"]]
    return names


def _draw(
    args: argparse.Namespace,
    config: Config,
    shown: Shown,
    pictures: Tensor,
    layers: list[Seen],
    found: list[Specific],
) -> list[Path]:
    """Writes all pictures; returns their files."""
    from moe_bench.explain.draw_maps import draw_classes, draw_experts, draw_patches, draw_soft
    from moe_bench.explain.mosaic import mosaics
    from moe_bench.explain.routers import write_figures

    model, data = config.model, config.data
    mosaic = mosaics(shown.index, shown.numbers, layers, model.image_size, model.patch, data.resize, data.crop)
    figures: dict[str, Figure] = {}
    for seen, of_layer, one in zip(layers, mosaic, found):
        if seen.shown.soft:
            for which in ("dispatch", "combine"):
                figures[f"{seen.name}-{which}"] = draw_soft(pictures, seen, which)
        else:
            figures[f"{seen.name}-patches"] = draw_patches(pictures, seen)
        figures[f"{seen.name}-experts"] = draw_experts(
            seen, of_layer, partial(about, seen=seen, found=one, names=shown.names)
        )
        figures[f"{seen.name}-classes"] = draw_classes(seen, one, shown.names)
    return write_figures(_place(args), args.format, figures)


def about(expert: int, seen: Seen, found: Specific, names: Sequence[str]) -> str:
    """ "6.3 % · 0.42 bits (chance 0.20) · goldfish ×5.1, lemon ×3.9"."""
    share = float(seen.load[:, expert].sum() / seen.load.sum())
    return f"{percent(share)} · {_bits(expert, found)} · {_classes(expert, found, names)}"


def _bits(expert: int, found: Specific) -> str:
    return f"{found.of_expert[expert]:.2f} bits (chance {found.chance[expert]:.2f})"


def _classes(expert: int, found: Specific, names: Sequence[str], count: int = 3) -> str:
    rows = found.rows_of(expert, count)
    return ", ".join(f"{names[found.classes[row]]} ×{found.lift[row, expert]:.1f}" for row in rows) or MISSING


def _head(run: Path, config: Config, shown: Shown, step: int, bad: int) -> str:
    skipped = f"; {bad} could not be decoded" if bad else ""
    count, every = len(shown.numbers), len(shown.index)
    of = f"{'all' if count == every else f'{count:,} of'} {every:,} pictures of {shown.data}"
    alone = isinstance(config.router, SoftRouterConfig)
    routed = "each routed alone" if alone else f"in groups of {config.capacity.group_images}"
    return f"{run.resolve().name}, step {step:,}: {of}, {routed}{skipped}"


def summary(layers: Sequence[Seen], found: Sequence[Specific], names: Sequence[str]) -> str:
    """A Markdown table with a line a layer, then the most class-specific experts of each."""
    heading = ["layer", "load CV", "wishes dropped", "tokens uncovered", "class and expert", "by chance"]
    rows = [heading]
    for seen, one in zip(layers, found):
        figures = {name: float(value) for name, value in seen.tally.figures().items()}
        shares = [percent(figures.get(name)) for name in ("dropped_wishes", "uncovered")]
        bits = [f"{value:.3f} bits" for value in (one.bits, one.chance_bits)]
        rows.append([seen.name, f"{figures['load/cv']:.2f}", *shares, *bits])
    widths = [max(len(row[place]) for row in rows) for place in range(len(heading))]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    table = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    lines = [f"- {seen.name}: {_most(one, names)}" for seen, one in zip(layers, found)]
    return "\n".join([*table, "", "Experts that know most of classes:", *lines])


def _most(found: Specific, names: Sequence[str]) -> str:
    experts = found.most(3)
    return "; ".join(f"expert {e + 1}, {_bits(e, found)}: {_classes(e, found, names)}" for e in experts)


def _to_wandb(run: Path, config: Config, files: list[Path], step: int) -> int:
    """The pictures in the run's W&B as ``routing_maps/<name>``; returns 2 where it did not take them."""
    from dataclasses import replace

    from moe_bench.build import wandb_logger
    from moe_bench.monitor.console import make_console

    told = make_console()
    logger = wandb_logger(replace(config, logger=replace(config.logger, name="wandb")), run, told)
    assert logger is not None
    logger.log_pictures({f"routing_maps/{path.stem}": path for path in files}, step)
    logger.close()
    return 2 if logger.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench explain",
        description="Draw where a trained run's routers send the patches of real pictures, and count it.",
        epilog=EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help='a run folder, or the word "routers"')
    parser.add_argument("--images", metavar="DIR", help='a folder of shards, or "digits" [the run\'s validation set]')
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help="pictures drawn [6]")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="pictures counted, or all [1000]")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the pictures [RUN/routing]")
    parser.add_argument("--format", choices=("png", "svg"), default="png", help="of the pictures [png]")
    parser.add_argument("--wandb", action="store_true", help="put them (png) into the run's W&B too")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to compute [auto]")
    return parser
