"""E. Run folders that two want, that were left behind, torn or taken away. Rows 39 to 41 and 43 of the fault matrix.

Of real commands; what a folder does by itself is in tests/monitor/test_folder.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from faults.command import TINY, figures, moe_bench, only_run, read
from moe_bench.monitor.lock import now
from moe_bench.training.module import LitViT

QUICK = [*TINY, "probe.sets=[]"]
LONG = [*QUICK, "recipe.steps=2000", "recipe.checkpoint_every=5"]
WITHIN_S = 120.0


def start(here: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "moe_bench", *words], cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for(here: Path, what: str) -> Path:
    """The run under ``here`` once it has a file like ``what`` with something in it."""
    deadline = time.monotonic() + WITHIN_S
    while not any(file.is_dir() or file.stat().st_size for file in here.glob(f"runs/*/{what}")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return only_run(here)


@pytest.mark.slow
def test_row_39_of_two_commands_in_the_same_second_one_wins_and_the_other_touches_nothing(here: Path) -> None:
    both = [start(here, *LONG) for _ in range(2)]
    try:
        while all(process.poll() is None for process in both):
            time.sleep(0.05)
        (loser,) = (process for process in both if process.poll() is not None)
        (winner,) = (process for process in both if process is not loser)
        said = loser.communicate()[1]
        assert loser.returncode == 6
        assert f"is being written by process {winner.pid} on " in said
        assert "Nothing was changed" in said
        run = wait_for(here, "metrics.jsonl")
        assert (read(run / "status.json")["pid"], read(run / "status.json")["state"]) == (winner.pid, "running")
        winner.send_signal(signal.SIGTERM)
        winner.communicate(timeout=WITHIN_S)
        assert winner.returncode == 143
        assert read(run / "status.json")["attempt"] == 1
    finally:
        for process in both:
            process.kill()


@pytest.mark.slow
def test_row_40_a_run_whose_process_was_killed_is_taken_over_without_any_help(here: Path) -> None:
    killed = start(here, *LONG)
    run = wait_for(here, "checkpoints/step-*")
    killed.kill()
    killed.communicate()
    assert read(run / "status.json")["state"] == "running"  # nobody was there to say otherwise
    again = start(here, *LONG)
    assert again.stdout is not None
    assert any("resuming from step" in line for line in again.stdout)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=WITHIN_S)
    assert again.returncode == 143
    assert read(run / "status.json")["attempt"] == 2


def test_row_40_a_run_on_another_machine_is_left_alone_while_it_gives_signs_of_life(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moe_bench(*QUICK) == 0
    run = only_run(here)
    (run / "summary.json").unlink()
    elsewhere = {**read(run / "status.json"), "state": "running", "host": "elsewhere", "pid": 1, "heartbeat": now()}
    (run / "status.json").write_text(json.dumps(elsewhere))
    assert moe_bench(*QUICK) == 6
    assert "process 1 on elsewhere" in capsys.readouterr().err
    (run / "status.json").write_text(json.dumps({**elsewhere, "heartbeat": "2020-01-01T00:00:00Z"}))
    assert moe_bench(*QUICK) == 0
    assert read(run / "status.json")["attempt"] == 2


def test_row_41_torn_files_are_counted_by_the_report_and_mended_by_the_next_start(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["recipe.steps=4", "recipe.checkpoint_every=1"]
    assert moe_bench(*QUICK, *steps) == 0
    run = only_run(here)
    whole, first = figures(run), (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    (run / "metrics.jsonl").write_bytes(b"".join(first[:3]) + first[3][:9])
    (run / "status.json").write_bytes(b"")
    capsys.readouterr()
    assert moe_bench("report", "runs") == 0
    assert "status.json" in "".join(capsys.readouterr())
    assert moe_bench(*QUICK, *steps) == 0
    assert figures(run) == whole
    assert (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3] == first[:3]  # to the byte, times too


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_row_43_a_run_folder_that_is_taken_away_is_exit_code_4_and_is_not_made_again(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real = LitViT.training_step

    def step(self: LitViT, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 2:
            only_run(here).rename(here / "moved")
            if how == "deleted":  # moved first: a save is being written, and rmtree stumbles over its files
                shutil.rmtree(here / "moved")
        return real(self, batch, batch_idx)

    monkeypatch.setattr(LitViT, "training_step", step)
    assert moe_bench(*QUICK, "recipe.steps=4", "recipe.checkpoint_every=1") == 4
    told = capsys.readouterr().err
    assert "was moved or deleted while the run was writing it" in told
    assert "Traceback" not in told
    assert [path for path in (here / "runs").iterdir() if path.is_dir()] == []
    assert (here / "moved" / "checkpoints" / "step-00000001").is_dir() == (how == "moved")


@pytest.mark.parametrize("runs", ["beside", "within"])
def test_row_43_without_its_current_directory_a_run_goes_on_if_its_folder_is_elsewhere(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    current, real = here / "current", LitViT.training_step
    current.mkdir()
    monkeypatch.chdir(current)

    def step(self: LitViT, batch: Any, batch_idx: int) -> Any:
        shutil.rmtree(current, ignore_errors=True)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(LitViT, "training_step", step)
    code = moe_bench(*QUICK, f"runs_dir={here}/runs" if runs == "beside" else "runs_dir=runs")
    told = capsys.readouterr().err
    monkeypatch.chdir(here)
    assert code == (0 if runs == "beside" else 4)
    assert told == "" or "was moved or deleted while the run was writing it" in told
    assert not current.exists()


def test_row_43_a_command_in_a_directory_that_was_deleted_says_that_there_is_nowhere_to_write(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code = moe_bench(*QUICK)
    told = capsys.readouterr().err
    monkeypatch.chdir(here)
    assert code == 4
    assert "Go to a folder that you may write to, or name one with runs_dir=DIR" in told
