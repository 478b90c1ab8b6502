"""Each run of a sweep is a SLURM job: its script, and what happens to it on a cluster of two nodes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_bench.config import load, run_id
from moe_bench.config.launchers import SlurmLauncher
from moe_bench.config.sweep import plan
from moe_bench.errors import ConfigError
from moe_bench.launch import slurm, sweep
from moe_bench.launch.cells import Cell, find_cells

LAUNCHER = "hydra/launcher=submitit_slurm"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cell_and_launcher(*words: str) -> tuple[Cell, SlurmLauncher]:
    asked = plan(["seed=1", LAUNCHER, *words], multirun=True)
    assert isinstance(asked.launcher, SlurmLauncher)
    return find_cells(asked)[0], asked.launcher


def options(*words: str) -> dict[str, str]:
    """What a script asks sbatch for."""
    text = slurm.script(*cell_and_launcher(*words))
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, flags=re.M))


def test_a_job_has_a_task_for_each_rank() -> None:
    asked = options("runtime.devices=4", "runtime.nodes=2")
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "4", "4")
    assert "gpus-per-node" not in options("runtime=cpu")
    assert options("hydra.launcher.gpus_per_node=1", "runtime.devices=2")["gpus-per-node"] == "1"


def test_the_launchers_settings_are_sbatchs_options() -> None:
    asked = options(
        "hydra.launcher.timeout_min=90.5",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.account=vision",
        "hydra.launcher.qos=long",
        "hydra.launcher.cpus_per_task=8",
        "hydra.launcher.mem_gb=64",
        "hydra.launcher.signal_delay_s=300",
        "hydra.launcher.additional_parameters={constraint: a100, exclusive: true}",
    )
    wanted = {"time": "91", "partition": "gpu", "account": "vision", "qos": "long", "cpus-per-task": "8"}
    wanted |= {"mem": "64G", "signal": "B:USR1@300", "constraint": "a100", "exclusive": "", "requeue": ""}
    assert wanted.items() <= asked.items()
    assert asked["comment"] == str(Path("runs", run_id(load(["seed=1"]))).absolute())


@pytest.mark.parametrize("option", [{"x=1 --wrap": 2}, {"constraint": "a\nb"}, {"Constraint": "a"}])
def test_what_is_no_option_of_sbatch_is_refused(option: dict[str, object]) -> None:
    cell, _ = cell_and_launcher()
    with pytest.raises(ConfigError, match="no option of sbatch"):
        slurm.script(cell, SlurmLauncher(additional_parameters=option))


def test_a_script_is_good_bash_and_starts_the_run_as_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "it's a folder"
    odd.mkdir()
    monkeypatch.chdir(odd)
    cell, launcher = cell_and_launcher("hydra.launcher.cpus_per_task=2")
    text = slurm.script(cell, launcher)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    srun = text.partition("\nsrun ")[2].partition("&\n")[0]
    assert srun == f"--kill-on-bad-exit=0 --wait=300 --cpus-per-task=2 \\\n  {shlex.join(cell.command)} "
    assert cell.command[-3:] == ("-m", "moe_bench", "seed=1")


def test_without_slurm_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="no `sbatch` here"):
        sweep.run(plan(["seed=1,2", LAUNCHER], multirun=True))


def test_a_dry_run_shows_the_script_of_the_first_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.run(plan(["seed=1,2", LAUNCHER], multirun=True), dry_run=True) == 0
    told = capsys.readouterr().out
    assert "#!/bin/bash" in told
    assert "#SBATCH --requeue" in told
    assert not Path("runs").exists()


PROGRAMS = {
    "srun": """
        trap 'test -n "$SAVES" && mkdir -p "$SAVES" && echo step-00000007 >"$SAVES/last"; exit 143' TERM
        echo $$ >running
        sleep 30 >&- 2>&- & wait""",
    "scancel": 'test "$*" = "--signal=TERM 12" && kill -TERM $(cat running)',
    "scontrol": 'echo "$*" >asked',
}
"""Stand for SLURM's where there is none: srun starts a run that may save when it is told to stop."""


@pytest.mark.parametrize("saves", [True, False])
def test_at_the_time_limit_a_job_is_queued_again_if_it_saved(
    saves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, launcher = cell_and_launcher()
    for name, program in PROGRAMS.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{program}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SAVES", str((cell.folder / "checkpoints").absolute()) if saves else "")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    Path("job.sh").write_text(slurm.script(cell, launcher))
    job = subprocess.Popen(["bash", "job.sh"], stderr=subprocess.PIPE, text=True)
    while not Path("running").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)  # as SLURM does
    _, told = job.communicate(timeout=20)
    assert job.returncode == 143
    assert Path("asked").exists() == saves
    assert ("not queued again" in told) != saves
    if saves:
        assert Path("asked").read_text() == "requeue 12\n"


def cluster() -> str:
    """Why there is no cluster to try on; empty if there is one."""
    if shutil.which("sinfo") is None:
        return "there is no SLURM here"
    told = subprocess.run(["sinfo", "--noheader", "--format=%D %T"], capture_output=True, text=True)
    nodes = sum(int(line.split()[0]) for line in told.stdout.splitlines() if line.split()[1] in ("idle", "mixed"))
    return "" if nodes >= 2 else f"SLURM has {nodes} free nodes, and these tests take 2"


on_a_cluster = pytest.mark.usefixtures("needs_cluster")

RUN = [
    *("router=softmax_ec", "model.depth=2", "model.moe_blocks=[1]", "model.width=32", "model.mlp=64"),
    *("model.experts=4", "recipe.batch=16", "probe=none", "logger=none", "runtime=cpu", "runtime.workers=0"),
]


@pytest.fixture
def needs_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    if why := cluster():
        pytest.skip(why)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # both nodes are this machine, whatever they are called
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def submit(*words: str) -> list[str]:
    """Submit a sweep; its job numbers."""
    command = [sys.executable, "-m", "moe_bench", "-m", LAUNCHER, *RUN, *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return re.findall(r"job (\d+)", told.stdout)


def until(true: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, [file.read_text() for file in Path("runs/.sweep").glob("*.log")]
        time.sleep(0.2)


def state_of(job: str) -> str:
    """What SLURM says of a job; empty where it knows it no more."""
    asked = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def wait_for(jobs: list[str]) -> None:
    until(lambda: not any(map(state_of, jobs)))


def folder_of(*words: str) -> Path:
    return Path("runs", run_id(load([*RUN, *words])))


def at_step(folder: Path, step: int) -> None:
    """Wait until the run has done so many steps."""
    until(lambda: (folder / "metrics.jsonl").exists() and any(s >= step for s in steps_of(folder)))


def steps_of(folder: Path) -> list[int]:
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["step"] for row in rows if row.endswith("}")]  # the last may be torn while it is written


@pytest.mark.slow
@pytest.mark.slurm
@on_a_cluster
def test_a_sweep_on_slurm_with_two_ranks_over_two_nodes() -> None:
    words = ["recipe.steps=4", "runtime.nodes=2"]
    jobs = submit("seed=1,2", "hydra.launcher.jobs=1", *words)
    assert len(jobs) == 2
    waiting = subprocess.run(
        ["squeue", "--noheader", "--format=%R", f"--jobs={jobs[1]}"], capture_output=True, text=True
    )
    assert waiting.stdout.strip() in ("(Dependency)", "(None)")  # behind the first
    assert submit("seed=1,2", *words)[:2] == jobs  # not queued twice
    wait_for(jobs)
    for seed in (1, 2):
        folder = folder_of(f"seed={seed}", "recipe.steps=4")
        assert json.loads((folder / "summary.json").read_text())["world_size"] == 2
    assert submit("seed=1,2", *words) == []


@pytest.mark.slow
@pytest.mark.slurm
@on_a_cluster
def test_a_job_that_is_queued_again_goes_on_where_it_was() -> None:
    words = ["recipe.steps=3000", "recipe.checkpoint_every=50", "runtime.nodes=2", "seed=7"]
    (job,) = submit(*words)
    folder = folder_of(*words)
    try:
        at_step(folder, 60)
        subprocess.run(["scontrol", "requeue", job], check=True)
        until(lambda: state_of(job) == "PENDING")
        subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)  # in place of two minutes
        until(lambda: json.loads((folder / "status.json").read_text())["attempt"] == 2)
    finally:
        subprocess.run(["scancel", job], check=True)
    wait_for([job])
    attempts = json.loads((folder / "run.json").read_text())["attempts"]
    assert attempts[0]["step"] == 0
    assert attempts[1]["step"] >= 50
    steps = steps_of(folder)
    assert steps == sorted(set(steps))
