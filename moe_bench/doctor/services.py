"""What stands around a run: SLURM, and Weights & Biases."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from moe_bench.config import Config
from moe_bench.doctor.finding import ANSWER_S, NOTE, OFF, OK, Finding
from moe_bench.monitor.environment import version
from moe_bench.monitor.wandb_offline import attempts, is_synced
from moe_bench.monitor.wandb_server import answers, choose_mode, has_key, server_url


def slurm(wanted: bool) -> Finding:
    """``wanted``: the runs are to be jobs."""
    if job := os.environ.get("SLURM_JOB_ID"):
        return Finding(OK, "slurm", f"within job {job}, partition {os.environ.get('SLURM_JOB_PARTITION', 'unknown')}")
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        if wanted:
            return Finding(OFF, "slurm", "no sinfo and sbatch here", "log in where jobs are submitted")
        return Finding(OK, "slurm", "not here, and not asked for")
    command = ["sinfo", "--noheader", "--format=%P %a %D %T"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
        lines, trouble = said.stdout.splitlines(), said.stderr if said.returncode else ""
    except subprocess.TimeoutExpired:
        lines, trouble = [], f"no answer within {ANSWER_S:g} s"
    except OSError as error:
        lines, trouble = [], error.strerror or str(error)
    if trouble or not lines:
        remedy = "ask who runs the cluster, or take hydra/launcher=local"
        return Finding(OFF if wanted else NOTE, "slurm", f"sinfo fails: {trouble or 'no partition'}", remedy)
    more = f"; and {len(lines) - 4} lines more of sinfo" if len(lines) > 4 else ""
    return Finding(OK, "slurm", f"partition, state, nodes: {'; '.join(lines[:4])}{more}")


def wandb(config: Config) -> Finding:
    """Whether W&B would be online, and why not. A run works without it."""
    if config.logger.name == "none":
        return Finding(OK, "wandb", "left out (logger=none)")
    if version("wandb") is None:
        return Finding(NOTE, "wandb", "not installed; metrics.jsonl has every row", "pip install wandb")
    mode, why = choose_mode(config.logger.mode)
    host = urlsplit(server_url(os.environ)).hostname
    if mode == "online":
        return Finding(OK, "wandb", f"online: {host} answers and there is a key for it; the key itself is not tried")
    if why == "as asked":
        return Finding(OK, "wandb", f"{mode}, as asked")
    reach = "" if has_key(server_url(os.environ), os.environ) else _reach(host)
    return Finding(NOTE, "wandb", f"offline: {why}{reach}", "wandb login, or logger=none" if reach else "")


def _reach(host: str | None) -> str:
    return f"; {host} {'answers' if answers(server_url(os.environ), os.environ) else 'does not answer'}"


def unsynced(runs_dir: Path) -> list[Finding]:
    """The runs with something that W&B does not have yet."""
    folders = (
        [path for path in runs_dir.iterdir() if path.is_dir() and "~" not in path.name] if runs_dir.is_dir() else []
    )
    waiting = [run for run in folders if not all(map(is_synced, attempts(run)))]
    if not waiting:
        return []
    found = f"{len(waiting)} run{'s' * (len(waiting) != 1)} in {runs_dir} kept offline for W&B"
    return [Finding(NOTE, "wandb", found, f"moe-bench sync {runs_dir}")]
