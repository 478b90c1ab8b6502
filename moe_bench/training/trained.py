"""A run that has been: its settings, and its model with the weights of a checkpoint. Torch waits until it is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.monitor.atomic import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from moe_bench.config import Config
    from moe_bench.model import VisionTransformer


def run_config(run: Path) -> Config:
    """The settings of a run, from its folder. Raises ConfigError where it is not there, else CheckpointError."""
    from moe_bench.config import from_dict
    from moe_bench.config.here import meant_run

    if not run.exists():
        raise ConfigError(f"there is no folder {run}{meant_run(run)}")
    if not run.is_dir():
        raise ConfigError(f"{run} is a file. Give the folder of a run; `moe-bench ls` shows the runs")
    path = run / "run.json"
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except FileNotFoundError:
        raise CheckpointError(
            f"{run} is not a run folder: it has no run.json. `moe-bench ls` shows the runs."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def final_weights(source: Path) -> dict[str, Tensor]:
    """By name, what a finished run ended with and nothing older; or what a safetensors file holds.

    Raises:
        CheckpointError: there are none, or they are damaged.
        SecurityError: as ``store.load``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from moe_bench.training.store import load_weights, step_folder

    if source.is_dir():
        return load_weights(step_folder(source / "checkpoints", int(finished(source)["steps"])))[0]
    try:
        return load_file(source)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source} cannot be read: {error}") from error


def finished(run: Path) -> dict[str, Any]:
    """The summary of a run that is finished. Raises CheckpointError."""
    summary = read_json(run / "summary.json")
    if summary is not None:
        return summary
    raise CheckpointError(_unfinished(run, "no final weights"))


def _unfinished(run: Path, lacks: str) -> str:
    status = read_json(run / "status.json") or {}
    where = f"{status.get('state', 'never began')} at step {status.get('step', 0)} of {status.get('steps', '?')}"
    then = "goes on from its last checkpoint" if _has_saved(run) else "begins at step 0, as nothing was saved"
    return f"{run} is not finished ({where}), so it has {lacks} yet. Type the run's command again: it {then}."


def _has_saved(run: Path) -> bool:
    return any((run / "checkpoints").glob("step-*"))


def load_model(run: Path, config: Config) -> tuple[VisionTransformer, int]:
    """The model of a run with the weights of its newest checkpoint, and their step. Raises CheckpointError."""
    from moe_bench.training.store import load_weights

    if not (_has_saved(run) or (run / "summary.json").exists()):
        raise CheckpointError(_unfinished(run, "no weights"))
    weights, manifest = load_weights(run)
    return model_of(weights, config, run), int(manifest["step"])


def model_of(weights: dict[str, Tensor], config: Config, run: Path) -> VisionTransformer:
    """The model of ``run`` with these weights. Raises CheckpointError if they are of another one."""
    from moe_bench.model import from_config
    from moe_bench.training.store import check_fits

    if "head.bias" not in weights:
        raise CheckpointError(f"the checkpoint in {run} has no head.bias; it is not of this program's models")
    model = from_config(config.model, config.router, config.capacity, num_classes=len(weights["head.bias"]))
    check_fits(model.state_dict(), weights)
    model.load_state_dict(weights)
    return model
