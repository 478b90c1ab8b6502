"""``moe-bench export RUN``: the weights of a finished run as one file, safe to load, that any framework reads."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moe_bench.arguments import Parser
from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.monitor.atomic import make_writable, sync_folder
from moe_bench.training.trained import final_weights, finished, run_config

if TYPE_CHECKING:
    from torch import Tensor

    from moe_bench.config import Config

NAME = "model.safetensors"
EPILOG = """examples:
  moe-bench export runs/NAME                       writes runs/NAME/model.safetensors
  moe-bench export runs/NAME --out my-model.safetensors

The file's metadata says what the model is: "config" (model, router and capacity as JSON) and "summary" (the result).
Weights are named as in moe_bench.model.VisionTransformer, whichever devices they were trained on.
"""


def run(argv: list[str]) -> int:
    """Writes the file and says where. Raises MoeBenchError for what cannot be exported; nothing is then left behind."""
    args = _parser().parse_args(argv)
    config, summary = run_config(args.run), finished(args.run)
    out: Path = args.out or args.run / NAME
    if out.exists():
        raise ConfigError(f"{out} is there already and was left as it is. Remove it, or name another file with --out.")
    weights = _weights(args.run, config)
    make_writable(out.parent, parents=True, remedy="Name another file with --out.")
    about = {name: asdict(getattr(config, name)) for name in ("model", "router", "capacity")}
    told = {"format": "pt", "run_id": summary["run_id"], "config": json.dumps(about), "summary": json.dumps(summary)}
    _write(out, weights, told)
    size = out.stat().st_size / 1e6
    print(f"{out}: {len(weights)} tensors, {size:,.1f} MB, of step {summary['steps']:,} of {summary['run_id']}")
    return 0


def _weights(run: Path, config: Config) -> dict[str, Tensor]:
    """What the run ended with, and nothing older: by name, checked against the model that the settings describe."""
    from moe_bench.training.trained import model_of

    weights = final_weights(run)
    model_of(weights, config, run)
    return weights


def _write(out: Path, weights: dict[str, Tensor], told: dict[str, str]) -> None:
    """Whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temp = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        save_file({name: value.contiguous() for name, value in weights.items()}, temp, told)
        os.replace(temp, out)
        sync_folder(out.parent)
    except (OSError, SafetensorError) as error:
        temp.unlink(missing_ok=True)
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(f"{out} could not be written: {cause}. Nothing was left there.") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench export",
        description="The weights of a finished run as one safetensors file.",
        epilog=EPILOG,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"where to write [RUN/{NAME}]")
    return parser
