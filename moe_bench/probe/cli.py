"""``moe-bench probe RUN``: few-shot scores of a finished or interrupted run on other data or under another protocol."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moe_bench.arguments import Parser, natural, positive, several
from moe_bench.config.plugins import blaming_own_code
from moe_bench.errors import ConfigError
from moe_bench.monitor.units import counted
from moe_bench.training.trained import load_model, run_config

if TYPE_CHECKING:
    from moe_bench.config import Config
    from moe_bench.probe.score import ProbeSet, Protocol, Score

EXAMPLES = """examples:
  moe-bench probe runs/NAME                                  the run's own sets and protocol
  moe-bench probe runs/NAME --data ~/shards/birds            your pictures: train-*.tar and test-*.tar
  moe-bench probe runs/NAME --shots 1,5,10,25 --policy best  as V-MoE reports it

The pixels column is the same regression on raw pixels, at most 32 a side: the floor that a score must beat.
policies: fixed λ; best, chosen on the test sets as V-MoE does; heldout, by cross-validation of the training shots.
"""


def run(argv: list[str]) -> int:
    """Prints a table, or JSON with ``--json``; writes nothing. Raises MoeBenchError for what cannot be done."""
    args = _parser().parse_args(argv)
    config = run_config(args.run)
    with blaming_own_code(config.router):
        return _probe(args, config)


def _probe(args: argparse.Namespace, config: Config) -> int:
    settings = config.probe
    sources = args.data or list(settings.sets) or list(config.data.probe)
    if not sources:
        raise ConfigError(f"{args.run} names no data set to probe on. Give one: moe-bench probe {args.run} --data DIR")

    from moe_bench.probe.callback import floor
    from moe_bench.probe.features import pre_logits
    from moe_bench.probe.score import Protocol, Reader, open_sets, score
    from moe_bench.training.place import torch_device

    protocol = Protocol(
        shots=tuple(args.shots or settings.shots),
        draws=args.draws or settings.draws,
        policy=args.policy or settings.policy,
        l2=settings.l2 if args.l2 is None else args.l2,
        crop=settings.crop if args.crop is None else args.crop,
    )
    sets = open_sets(sources, config.data.cache_dir)
    model, step = load_model(args.run, config)
    device = torch_device(args.device)
    reader = Reader(config.model.image_size, args.batch, args.workers, device)
    scores = score(sets, protocol, pre_logits(model.eval().to(device)), reader)
    floors = floor(sets, protocol, reader)
    told = [
        {**asdict(one), "floor": low.accuracy, "step": step, "run": str(args.run)} for one, low in zip(scores, floors)
    ]
    print(json.dumps(told, indent=2) if args.json else table(scores, floors, protocol, step))
    for note in fewer_shots(sets, protocol):
        print(note, file=sys.stderr)
    return 0


def fewer_shots(sets: Sequence[ProbeSet], protocol: Protocol) -> list[str]:
    """Of which sets a number of shots is not what each class gave, and what it gave."""
    least = {one.name: min(Counter(one.train.labels[:, 0].tolist()).values()) for one in sets}
    return [
        f"{name}: a class with fewer pictures than shots gave all it has, the smallest {counted(number, 'pictures')}"
        for name, number in least.items()
        if number < max(protocol.shots)
    ]


def table(scores: list[Score], floors: list[Score], protocol: Protocol, step: int) -> str:
    """Scores in percent, a line each."""
    width = max(len("data set"), *(len(one.dataset) for one in scores))
    lines = [f"{'data set':<{width}}  shots  accuracy        pixels        λ"]
    for one, low in zip(scores, floors, strict=True):
        spread = f" ± {100 * one.std:4.1f}" if protocol.draws > 1 else ""
        accuracy = f"{100 * one.accuracy:5.1f}{spread} %"
        lines.append(
            f"{one.dataset:<{width}}  {one.shots:>5}  {accuracy:<14}  {100 * low.accuracy:5.1f} %  {one.l2:>8g}"
        )
    draws = f"mean ± std over {protocol.draws} draws" if protocol.draws > 1 else "1 draw"
    about = f"weights of step {step} · {draws} · λ policy {protocol.policy}"
    return "\n".join([*lines, about])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench probe",
        description="Few-shot accuracy of a run's features: ridge regression on frozen pre-logits.",
        epilog=EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--data", action="append", metavar="DIR", help='a folder of shards, or "digits"; repeat for more [the run\'s]'
    )
    parser.add_argument("--shots", type=several(int), metavar="N,N", help="pictures a class [the run's]")
    parser.add_argument("--draws", type=positive(int), metavar="N", help="random draws to average [the run's]")
    parser.add_argument("--policy", choices=("fixed", "best", "heldout"), help="how λ is chosen [the run's]")
    parser.add_argument("--l2", type=float, metavar="λ", help="λ under --policy fixed [the run's]")
    parser.add_argument("--crop", type=float, metavar="SHARE", help="side kept by the centre crop [the run's]")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where to encode [auto]")
    parser.add_argument("--batch", type=positive(int), default=256, metavar="N", help="pictures at once [256]")
    parser.add_argument("--workers", type=natural, metavar="N", help="data processes [from the CPU count]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
