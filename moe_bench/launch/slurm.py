"""A sweep on a cluster: each cell is a SLURM job of its own, one script that a person can read and queue again.

The script starts the ranks by ``srun``. Near its time limit SLURM tells it, and it tells the run, which saves at a step
boundary and stops; then the job is queued again, and the same command goes on from the checkpoint. After a preemption
or a lost node SLURM queues it again by itself. This process only submits: it ends once all jobs are queued, needs to
stay logged in no longer, and run again submits what is neither finished nor queued.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from moe_bench.config.launchers import SlurmLauncher
from moe_bench.errors import EXIT_SIGTERM, ConfigError
from moe_bench.launch.cells import Cell
from moe_bench.launch.local import say
from moe_bench.monitor.atomic import FOLDER_MODE
from moe_bench.parent import CELL

STRAGGLER_S = 300
"""How long ranks may outlive the first that ends: W&B is given half a minute."""

_OPTION = re.compile(r"[a-z][a-z-]*")

SCRIPT = """\
#!/bin/bash
{directives}
# One run of a sweep, written by moe-bench. `sbatch` with this file queues it again: it goes on, or says it is finished.
export {cell}=1

checkpoint() {{ cat {checkpoint} 2>/dev/null; }}
before=$(checkpoint)
# The time limit is near: the run is told, saves and stops. (A signal to srun itself would kill the run.)
trap 'late=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
{srun} \\
  {command} &
run=$!
code=138
while [ "$code" = 138 ]; do wait "$run"; code=$?; done # 138: it was the wait that the signal ended
if [ -n "$late" ] && [ "$code" = {stopped} ]; then
  if [ "$(checkpoint)" != "$before" ]; then
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "moe-bench: not queued again, since nothing was saved before the time limit" >&2
  fi
fi
exit "$code"
"""


def run(cells: Sequence[Cell], launcher: SlurmLauncher, dry_run: bool = False) -> int:
    """Submit what is neither finished nor queued, and tell each job's number; returns 0.

    Raises:
        ConfigError: there is no SLURM here, or it refuses a job.
    """
    left = [cell for cell in cells if not cell.finished]
    if dry_run:
        if left:
            say(f"\n{left[0].beside('.sh')} would be:\n\n{script(left[0], launcher)}")
        return 0
    if shutil.which("sbatch") is None:
        raise ConfigError("hydra/launcher=submitit_slurm: there is no `sbatch` here. Type this where SLURM is.")
    queued = _queued()
    jobs: list[str] = []
    for cell in left:
        if known := queued.get(str(cell.folder.absolute())):
            say(f"[{cell.number}/{len(cells)}] {cell.label}: queued before, as job {known}")
            jobs.append(known)
            continue
        behind = jobs[-launcher.jobs] if launcher.jobs and len(jobs) >= launcher.jobs else None
        jobs.append(_submit(cell, launcher, behind, len(jobs), len(left)))
        say(f"[{cell.number}/{len(cells)}] {cell.label}: job {jobs[-1]}, it prints to {cell.beside('.log')}")
    if left:
        count = f"{len(left)} jobs" if len(left) > 1 else "1 job"
        say(f"\n{count}: see `squeue --me`, and `moe-bench ls {left[0].folder.parent}` for how far the runs are")
    return 0


def _submit(cell: Cell, launcher: SlurmLauncher, behind: str | None, before: int, total: int) -> str:
    """Queue one cell, to start after job ``behind`` has ended; returns its job number."""
    file = cell.beside(".sh")
    file.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as written:
        written.write(script(cell, launcher))
    after = [f"--dependency=afterany:{behind}"] if behind else []
    told = subprocess.run(["sbatch", "--parsable", *after, str(file)], capture_output=True, text=True)
    if told.returncode != 0:
        raise ConfigError(
            f"SLURM refuses {cell.label}: {told.stderr.strip()}\n"
            f"The script is {file}; {before} of {total} jobs were queued before. Options: hydra.launcher.partition, "
            "account, qos, gpus_per_node, cpus_per_task, mem_gb, timeout_min, additional_parameters."
        )
    return told.stdout.strip().partition(";")[0]


def _queued() -> dict[str, str]:
    """Run folder → its job, of all jobs of this user that wait or run: a script's comment is its run folder."""
    told = subprocess.run(["squeue", "--me", "--noheader", "--format=%i|%k"], capture_output=True, text=True)
    if told.returncode != 0:
        raise ConfigError(f"SLURM does not answer: {told.stderr.strip()}")
    pairs = (line.partition("|") for line in told.stdout.splitlines())
    return {folder.strip(): job.strip() for job, _, folder in pairs}


def script(cell: Cell, launcher: SlurmLauncher) -> str:
    """What is handed to ``sbatch``."""
    threads = f" --cpus-per-task={launcher.cpus_per_task}" if launcher.cpus_per_task else ""  # sbatch's is not srun's
    return SCRIPT.format(
        cell=CELL,
        directives="\n".join(f"#SBATCH {option}" for option in _options(cell, launcher)),
        checkpoint=shlex.quote(str(cell.folder.absolute() / "checkpoints" / "last")),
        srun=f"srun --kill-on-bad-exit=0 --wait={STRAGGLER_S}{threads}",
        command=shlex.join(cell.command),
        stopped=EXIT_SIGTERM,
    )


def _options(cell: Cell, launcher: SlurmLauncher) -> Iterator[str]:
    runtime = cell.config.runtime
    gpus = launcher.gpus_per_node
    if gpus is None:
        gpus = 0 if runtime.accelerator == "cpu" else runtime.devices
    asked: dict[str, object] = {
        "job-name": cell.name,
        "comment": cell.folder.absolute(),
        "chdir": Path.cwd(),
        "output": str(cell.beside(".log").absolute()).replace("%", "%%"),
        "open-mode": "append",
        "requeue": True,
        "signal": f"B:USR1@{launcher.signal_delay_s}",
        "nodes": runtime.nodes,
        "ntasks-per-node": runtime.devices,
        "gpus-per-node": gpus or None,
        "cpus-per-task": launcher.cpus_per_task,
        "mem": launcher.mem_gb and f"{launcher.mem_gb}G",
        "time": launcher.timeout_min and math.ceil(launcher.timeout_min),
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        **launcher.additional_parameters,
    }
    for name, value in asked.items():
        if value is None or value is False:
            continue
        if not _OPTION.fullmatch(name) or not str(value).isprintable():
            raise ConfigError(f"hydra.launcher.additional_parameters: {name}={value!r} is no option of sbatch.")
        yield f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}"
