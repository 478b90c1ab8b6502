"""A sweep runs every cell in a process of its own, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from moe_bench.config.sweep import Plan, plan
from moe_bench.errors import SweepError
from moe_bench.launch import local

ENDINGS = {
    "router=soft": "pass",
    "router=dense": "sys.exit(7)",
    "router=softmax_ec": "os.kill(os.getpid(), 9)",
    "router=sinkhorn_ec": "os.abort()",
}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is a process that ends as ENDINGS has it, instead of a training."""

    def command(_plan: Plan, cell: Sequence[str], _config_dir: str | None) -> list[str]:
        return [sys.executable, "-c", f"import os, sys; {ENDINGS[cell[0]]}"]

    monkeypatch.setattr(local, "command", command)


@pytest.mark.usefixtures("scripted")
def test_a_cell_that_dies_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    grid = plan(["router=softmax_ec,dense,sinkhorn_ec,soft"], multirun=True)
    with pytest.raises(SweepError, match="3 of 4 runs failed") as caught:
        local.run(grid)
    assert caught.value.exit_code == 8
    table = capsys.readouterr().out.split("folder\n")[1].splitlines()
    states = {line.split()[0]: line for line in table}
    assert "killed by SIGKILL" in states["router=softmax_ec"]
    assert "failed: a worker was lost" in states["router=dense"]
    assert " 7 " in states["router=dense"]
    assert "killed by SIGABRT" in states["router=sinkhorn_ec"]
    assert "finished" in states["router=soft"]
    assert "runs/soft-tiny-c1-digits-s0-" in states["router=soft"]


@pytest.mark.usefixtures("scripted")
def test_a_sweep_whose_cells_all_finish_ends_well() -> None:
    assert local.run(plan(["router=soft", "seed=1,2"], multirun=True)) == 0


def test_a_cell_is_the_same_command_with_one_value_each() -> None:
    grid = plan(["capacity=1,2", "router=soft"], multirun=True)
    words = local.command(grid, grid.cells[1], "own")
    assert words[0] == sys.executable
    assert words[words.index("-m") :] == ["-m", "moe_bench", "--config-dir", "own", "capacity='2'", "router=soft"]


def test_a_cell_of_a_preset_is_told_that_it_is_no_sweep() -> None:
    grid = plan(["sweep=seeds"])
    words = local.command(grid, grid.cells[1], None)
    assert words[-3:] == ["--run", "seed=1", "sweep=seeds"]
    assert not plan(words[-2:], single=True).is_sweep


SWEEP_OF_SLEEPERS = """
import sys, time
from moe_bench.config.sweep import plan
from moe_bench.launch import local

CELL = '''
import signal, sys, time
signal.signal(signal.{name}, lambda *_: sys.exit({code}))
print("started", flush=True)
time.sleep(30)
'''
local.command = lambda *_: [sys.executable, "-c", CELL]
sys.exit(local.run(plan(["seed=1,2,3"], multirun=True)))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_the_running_cell_gently_and_starts_no_other(name: str, code: int, tmp_path: Path) -> None:
    script = SWEEP_OF_SLEEPERS.replace("{name}", name).replace("{code}", str(code))
    sweep = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert sweep.stdout is not None
    while "started" not in (line := sweep.stdout.readline()):
        assert line, "the sweep ended before its first cell began"
    began = time.monotonic()
    os.kill(sweep.pid, getattr(signal, name))
    told, _ = sweep.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert sweep.returncode == code
    assert told.count("not started") == 2
    assert "[2/3]" not in told
    assert "failed" not in told
    assert "started\n" not in told.split("folder\n")[0].replace("not started", "")
    left = subprocess.run(["pgrep", "-s", str(sweep.pid)], capture_output=True, text=True).stdout
    assert left == ""
