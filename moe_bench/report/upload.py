"""Upload the offline attempts of one run to W&B, each in a process of W&B's own that may fail and may not hang."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moe_bench.monitor.units import duration
from moe_bench.monitor.wandb_offline import is_synced, mark_synced
from moe_bench.secrets import redact

UPLOAD_S = 600.0  # for one attempt; what is uploaded by then need not be uploaded again
TORN = "ends with an incomplete record"  # in W&B's words: the attempt was killed while it wrote

_URL = re.compile(r"https?://\S+/runs/\S+")


@dataclass(frozen=True)
class Outcome:
    """``uploaded`` attempts of a run, then ``failure``: why the next one was not, "" where none is left."""

    uploaded: int
    failure: str = ""
    url: str = ""


def upload(attempts: list[Path], limit_s: float = UPLOAD_S) -> Outcome:
    """Upload W&B's files of one run in their order; each goes on where the one before ended.

    For a run that is not running: a torn last record is left out, since nobody will complete it.
    """
    url = ""
    for done, file in enumerate(attempts):
        said = _wandb_sync(file, limit_s)
        url = (_URL.findall(said) or [url])[-1]
        if not is_synced(file):
            if TORN not in said:
                return Outcome(done, _reason(said), url)
            mark_synced(file)
    return Outcome(len(attempts), url=url)


def _wandb_sync(file: Path, limit_s: float) -> str:
    """What W&B says to ``wandb sync``; its exit code says nothing."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(file.absolute())]
    with subprocess.Popen(
        command,
        env=_environment(os.environ, file.parents[2]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            return str(redact(process.communicate(timeout=limit_s)[0]))
        except subprocess.TimeoutExpired:
            return f"ERROR it took longer than {duration(limit_s)}; the next sync goes on from there"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and its service, which would go on trying


def _environment(variables: Mapping[str, str], run: Path) -> dict[str, str]:
    """Ours, without what keeps W&B offline or silent, its own logs within the run."""
    kept = {name: value for name, value in variables.items() if name not in ("WANDB_MODE", "WANDB_SILENT")}
    return {**kept, "WANDB_DIR": str(run.absolute())}


def _reason(said: str) -> str:
    lines = [line.removeprefix("wandb:").strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return ((errors or lines or ["W&B said nothing"])[-1].removeprefix("ERROR ")).rstrip(".")[:300]
