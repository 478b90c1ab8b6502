"""The ranks of a run are watched over: whatever ends one, all end, the reason is told once, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from moe_bench import cli
from moe_bench.errors import ConfigError, RankError
from moe_bench.launch import ranks
from moe_bench.ranks import Rank, find_rank

RANK = """
import os, signal, sys, time
from moe_bench.ranks import line
me, told = int(os.environ["RANK"]), line()
told.on_signal = lambda number: os._exit(100 + number)
"""
"""What stands for a rank here: it has a line, and trains nothing."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """``run(script)``: two ranks that execute ``script`` with ``me`` and ``told``; returns the exit code."""

    def on_two(script: str) -> int:
        monkeypatch.setattr(ranks, "this_program", lambda: [sys.executable, "-c", RANK + script])
        return ranks.run([], 2, tmp_path)

    yield on_two
    assert not psutil.Process().children(recursive=True)


def test_ranks_that_end_well_end_well(run) -> None:  # type: ignore[no-untyped-def]
    assert run("sys.exit(0)") == 0


def test_ranks_know_their_place(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
    run(f"open(f'{tmp_path}/{{me}}', 'w').write(' '.join(os.environ[name] for name in {names}))")
    assert [(tmp_path / str(me)).read_text() for me in (0, 1)] == ["0 0 2 127.0.0.1", "1 1 2 127.0.0.1"]


def test_the_first_failure_is_told_with_its_code_and_not_what_it_led_to(run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RankError, match=r"^shard 3 is torn$") as caught:
        run(
            "if me == 1:\n"
            "    told.tell(end=3, message='shard 3 is torn'); sys.exit(3)\n"
            "lost = told.who_was_lost(30)\n"
            "told.tell(end=7, message='lost touch'); sys.exit(lost['code'])"
        )
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_with_its_step(run, victim: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RankError, match=rf"rank {victim} \(process \d+\) was killed by SIGKILL at step 41") as caught:
        run(
            f"told.tell(at=1, step=41)\nif me == {victim}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "sys.exit(told.who_was_lost(30)['code'])"
        )
    assert caught.value.exit_code == 7


def test_a_stuck_rank_is_the_one_that_is_behind(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(ranks, "SILENT_S", 0.5)
    with pytest.raises(RankError, match=r"rank 1 .* was stuck at step 4: the others waited 10 s for it") as caught:
        run(
            "told.tell(at=8 - me, step=4)\nif me == 1: time.sleep(60)\n"
            "time.sleep(0.5); told.tell(waited_s=10.0)\nsys.exit(told.who_was_lost(30)['code'])"
        )
    assert caught.value.exit_code == 7


def test_who_does_not_notice_is_killed(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(ranks, "SILENT_S", 0.5)
    started = time.monotonic()
    with pytest.raises(RankError, match="no such thing"):
        run("if me == 0: told.tell(end=2, message='no such thing'); sys.exit(2)\ntime.sleep(60)")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_are_told_to_every_rank(run, tmp_path: Path, number: signal.Signals, code: int) -> None:  # type: ignore[no-untyped-def]
    script = (
        f"def heard(number):\n    open(f'{tmp_path}/{{me}}', 'w').write(str(number))\n    os._exit(128 + number)\n"
        f"told.on_signal = heard\nopen(f'{tmp_path}/ready{{me}}', 'w')\n"
        f"while not os.path.exists(f'{tmp_path}/ready{{1 - me}}'): time.sleep(0.01)\n"
        f"if me == 1: os.kill({os.getpid()}, {int(number)})\ntime.sleep(60)"
    )
    with pytest.raises(RankError, match=f"stopped by {number.name}") as caught:
        run(script)
    assert caught.value.exit_code == code
    assert {(tmp_path / str(me)).read_text() for me in (0, 1)} == {str(int(number))}


def test_ranks_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    script = f"import time; open('{tmp_path}/' + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        "from pathlib import Path; import sys; from moe_bench.launch import ranks\n"
        f"ranks.this_program = lambda: [sys.executable, '-c', {RANK + script!r}]\n"
        f"ranks.run([], 2, Path({str(tmp_path)!r}))"
    )
    started = subprocess.Popen([sys.executable, "-c", parent])
    while not all((tmp_path / str(me)).exists() and (tmp_path / str(me)).read_text() for me in (0, 1)):
        time.sleep(0.05)
    pids = [int((tmp_path / str(me)).read_text()) for me in (0, 1)]
    started.kill()
    started.wait()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    assert not alive


def test_the_status_of_a_run_whose_writer_was_killed_is_settled(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status = tmp_path / "status.json"
    script = (
        "if me == 0:\n"
        f"    open('{status}', 'w').write('{{\"state\": \"running\", \"pid\": ' + str(os.getpid()) + '}}')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit(told.who_was_lost(30)['code'])"
    )
    with pytest.raises(RankError):
        run(script)
    found = json.loads(status.read_text())
    assert (found["state"], found["exit_code"]) == ("failed", 7)
    assert "rank 0" in found["reason"]


TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "7",
}  # fmt: skip
SLURM = {
    "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_JOB_ID": "40123", "SLURM_STEP_NODELIST": "node[07-08]",
}  # fmt: skip


def test_a_rank_finds_its_place_under_every_launcher() -> None:
    assert find_rank(1, 1, {}) == Rank()
    assert find_rank(2, 1, {}) is None
    assert find_rank(4, 2, TORCHRUN) == Rank(5, 1, 1, 8, "a", 7)
    assert find_rank(4, 2, SLURM) == Rank(5, 1, 1, 8, "node07", 15123)
    batch_script = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}
    assert find_rank(1, 1, batch_script) == find_rank(1, 1, SLURM | {"SLURM_NTASKS": "1"}) == Rank()
    assert find_rank(2, 1, batch_script) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a1", "a1"), ("a1,a2", "a1"), ("n[3-5,9]", "n3"), ("n[03,07]-x", "n03-x"), ("gpu-a[1-2],b", "gpu-a1")],
)
def test_ranks_meet_on_the_first_machine_of_a_slurm_job(nodes: str, first: str) -> None:
    found = find_rank(4, 2, SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found is not None
    assert found.address == first


@pytest.mark.parametrize(
    ("environ", "devices", "nodes", "told"),
    [
        (TORCHRUN, 1, 1, "runtime.devices=4 runtime.nodes=2"),
        (TORCHRUN, 8, 1, "runtime.devices=4 runtime.nodes=2"),
        (SLURM, 1, 1, "8 tasks on 2 machine.*runtime.devices=1 .*runtime.devices=4 runtime.nodes=2"),
        (SLURM, 2, 1, "runtime.devices=4 runtime.nodes=2"),
        ({}, 4, 2, "srun --nodes 2 --ntasks-per-node 4"),
    ],
)
def test_another_number_of_processes_than_the_settings_say_is_refused(
    environ: dict[str, str], devices: int, nodes: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        find_rank(devices, nodes, environ)


@pytest.mark.parametrize("environ", [TORCHRUN, SLURM], ids=["torchrun", "srun"])
@pytest.mark.parametrize("launcher", ["local", "basic", "submitit_slurm"])
def test_ranks_do_not_each_do_the_whole_sweep(
    environ: dict[str, str], launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, **environ})
    with pytest.raises(ConfigError, match="8 processes were started to do the same sweep"):
        cli.dispatch(["-m", "seed=1,2", f"hydra/launcher={launcher}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", ["0", "5"])
def test_a_refusal_that_all_ranks_share_is_told_once(rank: str) -> None:
    command = [sys.executable, "-m", "moe_bench", "runtime.devices=2", "router=soft"]
    done = subprocess.run(command, env={**os.environ, **SLURM, "SLURM_PROCID": rank}, capture_output=True, text=True)
    assert done.returncode == 2
    assert ("8 tasks" in done.stderr) == bool(done.stderr) == (rank == "0")


DEPARTING = """
import atexit, os, sys
from moe_bench import ranks

class Held:
    def __del__(self):
        os.write(1, b"cleaned up ")

held = Held()
atexit.register(lambda: os.write(1, b"at exit "))
if "met" in sys.argv:
    ranks.met_others()
ranks.depart(5)
"""


def test_a_rank_that_met_others_ends_with_its_code_and_without_the_interpreters_clean_up() -> None:
    def told(*words: str) -> tuple[int, str]:
        ended = subprocess.run([sys.executable, "-c", DEPARTING, *words], capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout

    assert told("met") == (5, "at exit ")
    assert told() == (0, "at exit cleaned up ")
