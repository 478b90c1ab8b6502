"""``moe-bench bench``: reads the command line and prints tables. torch is imported when something is measured."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.arguments import Parser, too_little
from moe_bench.bench.cases import DTYPES, ROUTERS, Case, ProbeCase, make_cases, numbers, size, whole, words
from moe_bench.bench.timing import WARMUP
from moe_bench.data.progress import progress
from moe_bench.errors import (
    EXIT_SIGINT,
    EXIT_SIGTERM,
    CheckpointError,
    ConfigError,
    Interrupted,
    MoeBenchError,
    Terminated,
)
from moe_bench.monitor.console import make_console
from moe_bench.monitor.units import gigabytes
from moe_bench.routing.words import SOLVERS

if TYPE_CHECKING:
    import torch

STDOUT = Path("-")
WIDE = 1000  # columns: a table is as wide as it needs to be
SIZES = [(384, 1536, 32)]  # an MLP of ViT-S with 32 experts

PROBE_OPTIONS = (
    ("--train", 2000, "training examples of a draw"),
    ("--test", 10000, "test examples"),
    ("--width", 384, "features"),
    ("--classes", 200, "classes"),
    ("--draws", 1, "draws of training examples"),
    ("--rounds", 5, "rounds, after a small probe that warms up"),
)
DESCRIPTION = """\
What a mixture-of-experts layer, and judging it, costs on this machine.

  moe-bench bench layers     each router's layer, forward and training, against its experts alone and a dense MLP
  moe-bench bench routing    each router's bookkeeping alone, part by part
  moe-bench bench probe      the few-shot regressions, against their matrix products and scikit-learn
"""
EXAMPLES = """\
examples
  moe-bench bench layers                                            about a minute
  moe-bench bench layers --case 768x3072x32 --images 8,32 --threads 1 --json layers.json
  moe-bench bench layers --device cuda --dtype bf16 --images 32,128
  moe-bench bench routing --solvers adam,sweeps,dual
  moe-bench bench probe --train 10000 --test 50000 --width 768 --classes 1000 --draws 3 --rounds 1
How to read the numbers: docs/benchmarks.md
"""


def run(argv: list[str]) -> int:
    """Prints what was asked for; returns the exit code. Raises MoeBenchError for what a user can mend."""
    if not argv:
        return too_little(make_parser())
    args = make_parser().parse_args(argv)
    cases = args.cases(args)
    if args.json and not args.json.parent.is_dir():
        raise ConfigError(f"--json {args.json}: there is no folder {args.json.parent}")

    from moe_bench.bench.machine import describe, find_device, threads

    results: list[Any] = []
    ended: MoeBenchError | None = None
    with threads(args.threads):
        device = find_device(args.device)
        about = _about(argv) | {"device": describe(device)}
        try:
            args.measure(args, cases, device, results)
        except KeyboardInterrupt as error:
            code = EXIT_SIGTERM if isinstance(error, Terminated) else EXIT_SIGINT
            ended = Interrupted("interrupted; what was measured until then is above", code)
        except ConfigError as error:
            ended = error
    complete = [result for result in results if result.any_round]
    _tell(about | {"complete": ended is None}, complete, args)
    if ended:
        raise ended
    return 0


def _layer_cases(args: argparse.Namespace) -> list[Case]:
    sizes = args.case or SIZES
    return make_cases(sizes, args.images, args.capacity, args.dtype, args.tokens, args.group_images, args.routers)


def _probe_cases(args: argparse.Namespace) -> list[ProbeCase]:
    if args.train < args.classes:
        raise ConfigError(f"--train {args.train}: {args.classes} classes need at least as many examples")
    return [ProbeCase(args.train, args.test, args.width, args.classes, args.draws)]


def _layers(args: argparse.Namespace, cases: list[Case], device: torch.device, results: list[Any]) -> None:
    """Measures every case into ``results``."""
    from moe_bench.bench.layers import Options, measure, work
    from moe_bench.bench.peers import INSTALL, PEERS
    from moe_bench.bench.results import LayerTimes

    peers = [] if args.no_peers else [peer for peer in PEERS if peer.version]
    missing = [] if args.no_peers else [peer.package for peer in PEERS if not peer.version]
    options = Options(args.routers, args.solvers, peers, args.rounds, device)
    _check_memory(cases, len(peers), device)
    if missing:
        print(f"left out, as not installed: {', '.join(missing)}; {INSTALL}", file=sys.stderr)
    with progress("layers", sum(work(case, options) for case in cases) / 1e9, "GFLOP") as advance:
        for case in cases:
            results.append(LayerTimes(case))
            measure(results[-1], options, lambda flops: advance(flops / 1e9))


def _routing(args: argparse.Namespace, cases: list[Case], device: torch.device, results: list[Any]) -> None:
    """Measures every case into ``results``."""
    from moe_bench.bench.results import RoutingTimes
    from moe_bench.bench.routing import calls, measure

    _check_memory(cases, 0, device)
    total = sum(calls(args.routers, args.solvers) for _ in cases) * (args.rounds + WARMUP)
    with progress("routing", total, "calls") as advance:
        for case in cases:
            results.append(RoutingTimes(case))
            measure(results[-1], args.routers, args.solvers, args.rounds, device, advance)


def _probe(args: argparse.Namespace, cases: list[ProbeCase], device: torch.device, results: list[Any]) -> None:
    """Measures every case into ``results``."""
    from moe_bench.bench.probe import measure
    from moe_bench.bench.results import PROBE_JOBS, ProbeTimes
    from moe_bench.probe.ridge import L2_GRID

    for case in cases:
        _check_fits(case, case.bytes_needed(), device, "fewer --test examples or --classes")
    with progress("probe", len(cases) * len(PROBE_JOBS) * args.rounds, "jobs") as advance:
        for case in cases:
            results.append(ProbeTimes(case, len(L2_GRID)))
            measure(results[-1], args.rounds, advance)


def _check_memory(cases: list[Case], peers: int, device: torch.device) -> None:
    """Raises ConfigError for a case that cannot fit, before the others have taken their time."""
    for case in cases:
        _check_fits(case, case.bytes_needed(1 + peers), device, "fewer --images or a smaller --case")


def _check_fits(case: Case | ProbeCase, needed: int, device: torch.device, instead: str) -> None:
    from moe_bench.training.memory import free_bytes

    free = free_bytes("gpu" if device.type == "cuda" else "cpu")
    if needed > free:
        about = f"needs about {gigabytes(needed / 1e9)} of memory and {gigabytes(free / 1e9)} are free"
        raise ConfigError(f"{case}: {about}. Use {instead}.")


def _about(argv: list[str]) -> dict[str, Any]:
    from moe_bench.monitor.environment import snapshot

    where = snapshot()
    return {
        "command": f"moe-bench bench {shlex.join(argv)}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": where["versions"],
        "git": where["git"],
        "python": where["python"],
        "platform": where["platform"],
    }


def _tell(about: dict[str, Any], results: list[Any], args: argparse.Namespace) -> None:
    """JSON where it is wanted, and tables unless the JSON goes to stdout."""
    from moe_bench.bench.results import document
    from moe_bench.bench.tables import tables

    text = json.dumps(document(about, results), indent=2)
    if args.json == STDOUT:
        print(text)
        return
    console = make_console()
    for line in tables(about, results):
        console.print(line, soft_wrap=True, width=WIDE)
    if args.json:
        try:
            args.json.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {args.json}: {error.strerror or error}") from error
        console.print(f"written: {args.json}", soft_wrap=True)


def make_parser() -> argparse.ArgumentParser:
    """What the command line may be. A value that cannot be raises ConfigError."""
    parser = Parser(
        prog="moe-bench bench",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    verbs = parser.add_subparsers(required=True, metavar="layers|routing|probe")
    layers = verbs.add_parser("layers", help="whole layers, forward and training, and their memory")
    layers.set_defaults(measure=_layers, cases=_layer_cases, no_peers=False)
    routing = verbs.add_parser("routing", help="gate, affinity, choice, dispatch and combine of each router")
    routing.set_defaults(measure=_routing, cases=_layer_cases)
    for verb, rounds in ((layers, 11), (routing, 30)):
        _add_options(verb, rounds)
    probe = verbs.add_parser("probe", help="ridge regressions for 30 λ, on the CPU")
    probe.set_defaults(measure=_probe, cases=_probe_cases, device="cpu")
    for flag, default, what in PROBE_OPTIONS:
        probe.add_argument(flag, type=whole(flag), default=default, metavar="N", help=f"{what} [{default}]")
    for verb in (layers, routing, probe):
        _add_threads_and_json(verb)
    layers.add_argument("--no-peers", action="store_true", help="leave other packages out, installed or not")
    return parser


def _add_options(verb: argparse.ArgumentParser, rounds: int) -> None:
    """What the verbs for layers read. Lists are separated by commas, and every combination is measured."""

    def add(flag: str, kind: Callable[[str], Any], default: str, metavar: str, what: str) -> None:
        verb.add_argument(flag, type=kind, default=kind(default), metavar=metavar, help=f"{what} [{default}]")

    verb.add_argument(
        "--case", type=size, action="append", metavar="DxHxE",
        help="width × hidden width × experts; repeat for more [384x1536x32]",
    )  # fmt: skip
    add("--images", numbers("--images", int), "8", "N,N", "images of a batch")
    add("--tokens", whole("--tokens"), "196", "N", "tokens of an image")
    add("--group-images", whole("--group-images"), "8", "N", "images routed together, at most")
    add("--capacity", numbers("--capacity", float), "1", "C,C", "capacity factors")
    add("--routers", words("--routers", ROUTERS), ",".join(ROUTERS), "NAME,NAME", "which")
    add("--solvers", words("--solvers", SOLVERS), "adam,sweeps", "NAME,NAME", "of sparse_ec")
    add("--dtype", words("--dtype", DTYPES), "float32", "NAME,NAME", "float32, or bf16: autocast, float32 weights")
    add("--rounds", whole("--rounds"), str(rounds), "N", "rounds that count, after 2 that warm up")
    verb.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto: cuda where there is one]"
    )


def _add_threads_and_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--threads", type=whole("--threads"), metavar="N", help="CPU threads [as torch likes]")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there; - prints them instead")
