"""Which of a run's processes this one is, and what is refused before any of them waits for another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_bench import cli
from moe_bench.errors import ConfigError
from moe_bench.ranks import Rank, find_rank, processes

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n7"}
SRUN = {
    **{"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"},
    **{"SLURM_NODEID": "1", "SLURM_JOB_ID": "123456", "SLURM_STEP_NODELIST": "n[07-08]"},
}


def test_torchrun_and_srun_say_which_rank_this_is() -> None:
    assert find_rank(4, 2, {**TORCHRUN, "MASTER_PORT": "1234"}) == Rank(5, 1, 1, 8, "n7", 1234)
    assert find_rank(4, 2, SRUN) == Rank(5, 1, 1, 8, "n07", 15000 + 3456)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_other_numbers_of_processes_are_refused_with_both(devices: int) -> None:
    with pytest.raises(ConfigError, match=rf"8 processes.*runtime\.devices={devices} × .*Type runtime\.devices=4"):
        find_rank(devices, 1, TORCHRUN)
    with pytest.raises(ConfigError, match=rf"8 tasks on 2.*runtime\.devices={devices} × .*Type runtime\.devices=4"):
        find_rank(devices, 1, SRUN)


def test_a_batch_script_is_no_rank_and_neither_is_one_task() -> None:
    script = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"}
    assert processes(script) == 1
    assert find_rank(1, 1, script) == Rank()
    assert find_rank(2, 1, {**SRUN, "SLURM_NTASKS": "1"}) is None  # to be started here


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
@pytest.mark.parametrize("launcher", ["local", "basic", "submitit_slurm"])
def test_ranks_do_not_each_do_the_whole_sweep(
    environment: dict[str, str], launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    with pytest.raises(ConfigError, match="8 processes were started to do the same sweep"):
        cli.dispatch(["-m", "seed=1,2", f"hydra/launcher={launcher}"])
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_that_all_ranks_share_is_told_once() -> None:
    command = [sys.executable, "-m", "moe_bench", "runtime.devices=2", "router=soft"]
    for rank, told in (("0", "8 tasks"), ("5", "")):
        environment = {**os.environ, **SRUN, "SLURM_PROCID": rank}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert told in done.stderr
        assert bool(done.stderr) == bool(told)
