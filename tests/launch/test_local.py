"""A sweep runs every cell in a process of its own, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moe_bench import parent
from moe_bench.config import load, run_id, science
from moe_bench.config.sweep import plan
from moe_bench.errors import SweepError
from moe_bench.launch import cells, sweep
from tests.launch.scripted import read_until, script_cells, start_sweep

ENDINGS = {
    "seed=1": "pass",
    "seed=2": "raise RuntimeError('no luck')",
    "seed=3": "sys.exit(7)",
    "seed=4": "os.kill(os.getpid(), signal.SIGKILL)",
    "seed=5": "os.kill(os.getpid(), signal.SIGSEGV)",
    "seed=6": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
}
STATES = {
    "seed=1": "finished",
    "seed=2": "failed: a bug",
    "seed=3": "failed: a worker was lost",
    "seed=4": "killed by SIGKILL",
    "seed=5": "killed by SIGSEGV",
    "seed=6": "killed at the time limit",
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_dies_or_hangs_does_not_stop_the_others(
    jobs: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_cells(monkeypatch, ENDINGS)
    monkeypatch.setattr(parent, "GRACE_S", 0.2)
    grid = ["seed=1,2,3,4,5,6", f"hydra.launcher.jobs={jobs}", "hydra.launcher.timeout_min=0.02"]
    with pytest.raises(SweepError, match="5 of 6 runs failed") as caught:
        sweep.run(plan(grid, multirun=True))
    assert caught.value.exit_code == 8
    rows, reasons = capfd.readouterr().out.split("folder\n")[1].split("\n\n", 1)
    for row in rows.splitlines():
        label = row.split()[0]
        assert STATES[label] in row
        assert f"runs/{run_id(load([label]))}" in row
    assert "hydra.launcher.timeout_min=0.02" in reasons
    if jobs > 1:  # a log of its own, and its last line as the reason
        assert "RuntimeError: no luck" in reasons
        log = Path("runs", ".sweep", f"{run_id(load(['seed=2']))}.log")
        assert f"    {log}" in reasons
        assert "Traceback" in log.read_text()


def test_a_sweep_whose_cells_all_finish_ends_well_and_says_what_compares_them(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script_cells(monkeypatch, {})
    assert sweep.run(plan(["router=soft", "seed=1,2", "runs_dir='my runs'"], multirun=True)) == 0
    assert capfd.readouterr().out.endswith("\n\nnext\n  # the table of all runs\n  moe-bench report 'my runs'\n")


def test_a_cell_is_the_same_command_with_one_value_each() -> None:
    grid = plan(["capacity=1,2", "router=soft", "hydra.launcher.jobs=2"], multirun=True)
    words = list(cells.find_cells(grid, "own")[1].command)
    assert words[0] == sys.executable
    assert words[words.index("-m") :] == ["-m", "moe_bench", "--config-dir", "own", "capacity='2'", "router=soft"]


def test_a_cell_of_a_preset_is_told_that_it_is_no_sweep() -> None:
    words = list(cells.find_cells(plan(["sweep=seeds"]))[1].command)
    assert words[-3:] == ["--run", "seed=1", "sweep=seeds"]
    assert not plan(words[-2:], single=True).is_sweep


def test_what_is_finished_is_not_started_again(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = load(["seed=1"])
    folder = Path("runs", run_id(done))
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"science": science(done)}))
    (folder / "summary.json").write_text("{}")
    script_cells(monkeypatch, {"seed=1": "open('again', 'w')", "seed=2": "open('first', 'w')"})
    assert sweep.run(plan(["seed=1,2"], multirun=True)) == 0
    assert "finished before" in capfd.readouterr().out
    assert (Path("again").exists(), Path("first").exists()) == (False, True)
    assert sweep.run(plan(["seed=1,2", "force=true"], multirun=True)) == 0
    assert Path("again").exists()


def test_why_a_run_failed_is_told_from_its_own_status(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {"state": "failed", "exit_code": 3, "reason": "train-007.tar is cut short"}
    folder = Path("runs", run_id(load(["seed=1"])))
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({**status, "ended": "2020-01-01T00:00:00Z"}))
    script_cells(monkeypatch, {"seed=1": "sys.exit(3)"})
    with pytest.raises(SweepError):
        sweep.run(plan(["seed=1,2"], multirun=True))
    assert "cut short" not in capfd.readouterr().out  # that was an earlier attempt
    (folder / "status.json").write_text(json.dumps({**status, "ended": "2099-01-01T00:00:00Z"}))
    with pytest.raises(SweepError):
        sweep.run(plan(["seed=1,2"], multirun=True))
    assert "train-007.tar is cut short" in capfd.readouterr().out


def test_a_run_that_was_killed_is_told_of_in_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("runs", run_id(load(["seed=1"])))
    begin = f"""
import json, pathlib
folder = pathlib.Path({str(folder)!r})
folder.mkdir(parents=True)
(folder / "status.json").write_text(json.dumps(dict(state="running", pid=os.getpid(), step=40)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    script_cells(monkeypatch, {"seed=1": begin})
    with pytest.raises(SweepError):
        sweep.run(plan(["seed=1,2"], multirun=True))
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 137)
    assert status["reason"].startswith("killed by SIGKILL at step 40")


STOPS = """
signal.signal(signal.{name}, lambda *_: sys.exit({code}))
print("began", flush=True)
for _ in range(300):
    time.sleep(0.1)  # a signal that comes just before a sleep is seen after it
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_stops_the_running_cell_gently_and_starts_no_other(name: str, code: int, tmp_path: Path) -> None:
    running = start_sweep(tmp_path, STOPS.format(name=name, code=code), ["seed=1,2,3"])
    read_until(running, "began")
    began = time.monotonic()
    os.kill(running.pid, getattr(signal, name))
    told, _ = running.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert running.returncode == code
    assert told.count("not started") == 2
    assert "[2/3]" not in told
    assert "failed" not in told


def test_a_second_signal_kills_what_does_not_stop(tmp_path: Path) -> None:
    ignores = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    running = start_sweep(tmp_path, ignores, ["seed=1,2"])
    read_until(running, "[1/2]")
    assert running.stdout is not None
    cell = int(running.stdout.readline())
    running.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    running.send_signal(signal.SIGINT)
    told, _ = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "killed by SIGKILL" in told
    assert not psutil.pid_exists(cell)


def test_a_terminal_that_closes_stops_the_cells_gently_too(tmp_path: Path) -> None:
    running = start_sweep(tmp_path, STOPS.format(name="SIGTERM", code=143), ["seed=1,2"])
    read_until(running, "began")
    assert running.stdout is not None
    running.stdout.close()
    running.send_signal(signal.SIGHUP)
    assert running.wait(20) != 0
    assert psutil.Process().children(recursive=True) == []


ENDS_WITH_ITS_SWEEP = """
from moe_bench import parent
parent.GRACE_S = 0.2
signal.signal(signal.SIGTERM, {handler})
parent.end_with_it()
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("handler", ["lambda *_: (open('stopped', 'w'), sys.exit(143))", "signal.SIG_IGN"])
def test_row_40_a_cell_ends_with_its_killed_sweep_gently_if_it_can(tmp_path: Path, handler: str) -> None:
    running = start_sweep(tmp_path, ENDS_WITH_ITS_SWEEP.format(handler=handler), ["seed=1,2"])
    read_until(running, "[1/2]")
    assert running.stdout is not None
    cell = int(running.stdout.readline())
    running.kill()
    wait_for_end_of(cell)
    assert (tmp_path / "stopped").exists() == (handler != "signal.SIG_IGN")


def wait_for_end_of(pid: int) -> None:
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_cell_leaves_behind_ends_with_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = "import subprocess; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    script_cells(monkeypatch, {"seed=1": leaves})
    assert sweep.run(plan(["seed=1,2"], multirun=True)) == 0
    left = int(next(line for line in capfd.readouterr().out.splitlines() if line.isdigit()))
    wait_for_end_of(left)


def test_64_runs_on_2_slots_leak_nothing_and_are_never_more_than_2(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = "open(f'began-{os.getpid()}', 'w').write(str(time.time())); time.sleep(0.05)"
    counted += "; open(f'ended-{os.getpid()}', 'w').write(str(time.time()))"
    script_cells(monkeypatch, {f"seed={seed}": counted for seed in range(64)})
    this = psutil.Process()
    files = this.num_fds()
    assert sweep.run(plan(["seed=range(0,64)", "hydra.launcher.jobs=2"], multirun=True)) == 0
    assert this.num_fds() <= files  # fewer where the collector closed what earlier tests had left
    assert this.children(recursive=True) == []
    began, ended = ([float(p.read_text()) for p in Path().glob(f"{word}-*")] for word in ("began", "ended"))
    assert len(began) == len(ended) == 64
    events = sorted([(at, 1) for at in began] + [(at, -1) for at in ended])
    live = [sum(change for _, change in events[: i + 1]) for i in range(len(events))]
    assert max(live) == 2
