"""``moe-bench explain routers``: what each router does with the same tokens of real pictures, drawn and counted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moe_bench.arguments import Parser, positive
from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.monitor.units import MISSING, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moe_bench.data.index import ShardIndex
    from moe_bench.explain.routed import Routed
    from moe_bench.explain.scene import Scene

EXPERTS = 8  # of the gate by construction, as in model=tiny
EXAMPLES = """examples:
  moe-bench explain routers                            on the embedded digits
  moe-bench explain routers --images ~/shards/birds    on your pictures: val-*.tar or test-*.tar
  moe-bench explain routers --run runs/NAME            with a trained gate, on what enters its first MoE layer

All routers get the same tokens and the same logits, without noise, so what differs is the router alone.
"""


def run(argv: list[str]) -> int:
    """Draws a picture for each router and one of all, and prints what they show. Raises MoeBenchError."""
    args = _parser().parse_args(argv)
    scene, factor = _from_run(args) if args.run else _by_construction(args)

    from moe_bench.explain.draw import draw_all, draw_router, style
    from moe_bench.explain.routed import route
    from moe_bench.routing import PRESETS, Capacity

    try:
        several = [route(scene, name, Capacity(factor)) for name in PRESETS]
    except (
        ValueError
    ) as error:  # a capacity that leaves an expert without a slot or asks for more experts than there are
        raise ConfigError(str(error)) from error
    print(table(scene, factor, several))
    with style():
        figures = {"all": draw_all(scene, several)} | {routed.name: draw_router(scene, routed) for routed in several}
        write_figures(args.out, args.format, figures)
    print(f"written to {args.out}: {', '.join(f'{name}.{args.format}' for name in figures)}")
    return 0


def _by_construction(args: argparse.Namespace) -> tuple[Scene, float]:
    """A scene whose gate is made from its pictures, and the capacity factor."""
    from moe_bench.explain.scene import IMAGE_SIZE, PATCH, constructed, read_pictures

    index, data = named_pictures(args.images or "digits")
    pictures = read_pictures(index, args.pictures, IMAGE_SIZE)
    return constructed(pictures, PATCH, args.experts or EXPERTS, data), args.capacity or 1.0


def _from_run(args: argparse.Namespace) -> tuple[Scene, float]:
    """A scene with the gate of a run, and the capacity factor: the run's where none is asked for."""
    from moe_bench.build import pictures
    from moe_bench.explain.scene import read_pictures, trained
    from moe_bench.training.trained import load_model, run_config

    config = run_config(args.run)
    if args.experts not in (None, config.model.experts):
        raise ConfigError(f"--experts {args.experts}: the gate of {args.run} has {config.model.experts}")
    if args.images:
        index, data = named_pictures(args.images)
    else:
        own = pictures(config.data)
        index, data = own.val, own.name
    model, _ = load_model(args.run, config)
    shown = read_pictures(index, args.pictures, config.model.image_size, config.data.resize, config.data.crop)
    scene = trained(model, shown, config.model.patch, data, args.run.resolve().name)
    return scene, args.capacity or config.capacity.factor


def named_pictures(images: str) -> tuple[ShardIndex, str]:
    """The validation pictures of a folder of shards, or of "digits", and their name."""
    from moe_bench.data.digits import ensure_upstream
    from moe_bench.data.index import open_split
    from moe_bench.data.sources import split_of

    folder = ensure_upstream() if images == "digits" else Path(images).expanduser().resolve()
    return open_split(split_of(folder, "val")), folder.name


def table(scene: Scene, factor: float, several: list[Routed]) -> str:
    """What the pictures show, as numbers: a line for each router."""
    pictures, tokens = scene.tokens.shape[:2]
    experts = scene.gate.shape[1]
    head = [
        f"{pictures} pictures of {scene.data}: {pictures * tokens} tokens, {experts} experts, capacity {factor:g}",
        f"gate {scene.origin}; logits {scene.logits.mean():.2f} ± {scene.logits.std():.2f}",
        "",
    ]
    columns = ("router", "slots filled", "wishes dropped", "tokens uncovered", "experts a token", "weight a token")
    rows = [columns, *(_row(routed) for routed in several)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*head, *lines])


def _row(routed: Routed) -> tuple[str, ...]:
    slots, experts = routed.slots * routed.dispatch.shape[1], (routed.dispatch > 0).sum(-1)
    return (
        routed.name,
        _share(slots if routed.soft else int(routed.dispatch.sum()), slots),
        _share(int(routed.dropped.sum()), int(routed.wishes.sum())) if routed.wishes.any() else MISSING,
        _share(int(routed.uncovered.sum()), len(routed.uncovered)),
        f"{int(experts.min())} to {int(experts.max())}",
        f"{routed.combine.sum(-1).mean():.3f}",
    )


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({percent(part / whole)})"


def write_figures(folder: Path, form: str, figures: dict[str, Figure]) -> list[Path]:
    """Each figure as a file of its name; returns the files. Raises CheckpointError."""
    files = [folder / f"{name}.{form}" for name in figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, figure in zip(files, figures.values()):
            figure.savefig(file, metadata={"Date": None} if form == "svg" else {"Software": None})
    except OSError as error:
        raise CheckpointError(
            f"cannot write pictures to {folder}: {error.strerror or error}. Choose a place with --out FOLDER"
        ) from error
    return files


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench explain",
        description="Draw what each router does with the same tokens of real pictures, and count it.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "what", choices=("routers",), metavar="routers", help="all routers, a picture each and one of all"
    )
    parser.add_argument("--images", metavar="DIR", help='a folder of shards, or "digits" [the run\'s, or digits]')
    parser.add_argument("--run", type=Path, metavar="RUN", help="a run folder whose gate is used [by construction]")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help="pictures routed together [4]")
    parser.add_argument("--experts", type=positive(int), metavar="E", help=f"experts [the run's, or {EXPERTS}]")
    parser.add_argument("--capacity", type=positive(float), metavar="c", help="capacity factor [the run's, or 1]")
    parser.add_argument(
        "--out", type=Path, default=Path("explain"), metavar="FOLDER", help="for the pictures [explain]"
    )
    parser.add_argument("--format", choices=("png", "svg"), default="png", help="of the pictures [png]")
    return parser
