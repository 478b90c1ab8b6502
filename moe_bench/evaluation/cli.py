"""``moe-bench evaluate RUN``: a trained run at other capacities, one image a group, among other neighbours."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.arguments import Parser, natural, positive, several
from moe_bench.config.plugins import blaming_own_code
from moe_bench.data.progress import progress
from moe_bench.errors import ConfigError
from moe_bench.evaluation.settings import Setting, as_trained, compared_with, settings, words
from moe_bench.evaluation.table import table
from moe_bench.monitor.atomic import make_writable, plain, read_json, write_json
from moe_bench.training.trained import run_config

if TYPE_CHECKING:
    from moe_bench.build import Pictures
    from moe_bench.config import Config
    from moe_bench.evaluation.measure import Answers, Judge
    from moe_bench.model import VisionTransformer
    from moe_bench.probe.score import Score
    from moe_bench.training.place import Place

NAME = "evaluation.json"
CAPACITIES = [0.5, 1.0, 2.0, 4.0]
BATCH = 256  # pictures at once, in whole groups
EXAMPLES = f"""examples:
  moe-bench evaluate runs/NAME                          as trained, and at capacity 0.5, 1, 2 and 4
  moe-bench evaluate runs/NAME --capacity 1,1.5,8
  moe-bench evaluate runs/NAME --one-image              also each image routed alone
  moe-bench evaluate runs/NAME --orders 3               also among other neighbours: three other orders
  moe-bench evaluate runs/NAME --probe                  few-shot scores under each setting too

The numbers are also written to RUN/{NAME}. How to read them: docs/evaluation.md
"""


def run(argv: list[str]) -> int:
    """Prints a table, or JSON with ``--json``, and writes it beside the run. Raises MoeBenchError."""
    args = _parser().parse_args(argv)
    config = run_config(args.run)
    if args.probe and not config.probe.sets:
        raise ConfigError(f"--probe: {args.run} has no probe.sets. Use moe-bench probe {args.run} --data DIR")
    settings(config, args.capacity, args.k)  # so that a mistake is told before anything heavy is loaded
    make_writable(args.run)  # likewise
    with blaming_own_code(config.router):
        document = {"command": f"moe-bench evaluate {shlex.join(argv)}", **_evaluate(args, config)}
    print(json.dumps(plain(document), indent=2, ensure_ascii=False) if args.json else table(document))
    write_json(args.run / NAME, document)  # last: a disk that is full by now costs the file and not the table
    if not args.json:
        print(f"written: {args.run / NAME}")
    return 0


def _evaluate(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    from moe_bench import build
    from moe_bench.evaluation.measure import has_fixed_slots
    from moe_bench.probe.cli import load_model
    from moe_bench.training.place import resolve

    model, step = load_model(args.run, config)
    chosen, refused = settings(
        config,
        args.capacity,
        args.k,
        one_image=args.one_image,
        orders=args.orders,
        fixed_slots=has_fixed_slots(model),
    )
    at = resolve(args.device, precision=config.recipe.precision)
    found = build.pictures(config.data)
    judge = _judge(args, config, found, at)
    model.eval().to(judge.device)
    with progress("evaluation", judge.batches(1) * len(chosen), "batches") as advance:
        answers = judge.answers(model, chosen, advance)
    scores = _probe(config, model, chosen, judge) if args.probe else {}
    own = as_trained(config)
    rows = [_row(setting, own, config, answers, scores) for setting in chosen]
    return {
        "run_id": args.run.resolve().name,
        "router": config.router.name,
        "step": step,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": at.name,
        "precision": at.precision,
        "pictures": len(found.val),
        "bad": int((answers[own].predicted < 0).sum()),
        "settings": rows,
        "refused": [asdict(one) for one in refused],
        "remarks": _remarks(args.run, step, rows[0]["prec1"], len(found.val)),
    }


def _judge(args: argparse.Namespace, config: Config, found: Pictures, at: Place) -> Judge:
    import torch

    from moe_bench.build import tolerance
    from moe_bench.evaluation.measure import Judge

    group = config.capacity.group_images
    device = torch.device("cuda" if at.accelerator == "gpu" else "cpu")
    half = at.precision == "bf16-mixed"
    return Judge(
        found.val,
        image_size=config.model.image_size,
        classes=found.num_classes,
        loss=config.recipe.loss,
        resize=config.data.resize,
        crop=config.data.crop,
        batch=max(1, args.batch // group) * group,
        window=config.data.shuffle_window,
        max_pixels=config.data.max_pixels,
        tolerance=tolerance(config.data),
        workers=args.workers,
        device=device,
        autocast=lambda: torch.autocast(device.type, torch.bfloat16, enabled=half),
    )


def _probe(config: Config, model: VisionTransformer, chosen: list[Setting], judge: Judge) -> dict[Setting, list[Score]]:
    """Few-shot scores on the run's own sets under each setting; an order of validation pictures is none of theirs."""
    from moe_bench.evaluation.measure import route_as
    from moe_bench.probe.features import pre_logits
    from moe_bench.probe.score import Protocol, Reader, batches, open_sets, score

    p = config.probe
    protocol = Protocol(tuple(p.shots), p.draws, p.policy, p.l2, p.crop)
    sets = open_sets(p.sets, config.data.cache_dir)
    reader = Reader(judge.image_size, judge.batch, judge.workers, judge.device, tolerance=judge.tolerance)
    calm = [setting for setting in chosen if not setting.order]
    found = {}
    with progress("probe", len(calm) * batches(sets, protocol, judge.batch), "batches") as advance:
        for setting in calm:
            route_as(model, setting)
            found[setting] = score(sets, protocol, pre_logits(model, judge.autocast), reader, advance)
    return found


def _row(
    setting: Setting,
    own: Setting,
    config: Config,
    answers: dict[Setting, Answers],
    scores: dict[Setting, list[Score]],
) -> dict[str, Any]:
    """A setting with its numbers: shares of 1."""
    from moe_bench.evaluation.measure import Change

    now, base = answers[setting], compared_with(setting, own)
    return {
        **asdict(setting),
        "words": words(setting, own),
        "slots": setting.slots(config),
        "prec1": now.prec1,
        "loss": now.loss,
        "compared_with": None if base is None else words(base, own),
        "change": None if base is None else asdict(Change.between(now, answers[base])),
        "probe": [asdict(one) for one in scores.get(setting, [])],
    }


def _remarks(run: Path, step: int, prec1: float, pictures: int) -> list[str]:
    """Where the run itself has told another prec@1 of the same weights."""
    summary = read_json(run / "summary.json") or {}
    told = summary.get("val/prec1")
    if told is None or summary.get("steps") != step or abs(told - prec1) < 0.5 / pictures:
        return []
    return [f"as trained, summary.json says {100 * told:.2f} %: another device, precision, or pictures than in the run"]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench evaluate",
        description="A trained run under other capacities, groups and orders than those it was trained with.",
        epilog=EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--capacity", type=several(float), default=CAPACITIES, metavar="c,c", help="of evaluation [0.5,1,2,4]"
    )
    parser.add_argument(
        "--k", type=several(int), default=[], metavar="K,K", help="experts a token chooses [as in training]"
    )
    parser.add_argument("--one-image", action="store_true", help="also route each image alone, at each capacity")
    parser.add_argument(
        "--orders", type=natural, default=0, metavar="N", help="also N other orders of the pictures, at each capacity"
    )
    parser.add_argument("--probe", action="store_true", help="few-shot scores on the run's own sets too")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to compute [auto]")
    parser.add_argument("--batch", type=positive(int), default=BATCH, metavar="N", help=f"pictures at once [{BATCH}]")
    parser.add_argument("--workers", type=natural, metavar="N", help="data processes [from the CPU count]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
