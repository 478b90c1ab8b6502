"""C. Memory that runs out and data processes that are killed, in a whole run. Rows 27 and 28 of the fault matrix.

Signals (rows 23 and 24) are in tests/training/test_stop.py and test_resume.py, several ranks (23 to 26) in
tests/launch/test_faults.py.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from lightning.pytorch import Callback
from miniature import Run

from faults.command import TINY, moe_bench, only_run, read
from moe_bench.errors import WorkerLostError
from moe_bench.training.module import LitViT


class KillDataProcess(Callback):
    """A real kill -9."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            for child in psutil.Process().children():
                os.kill(child.pid, signal.SIGKILL)


@pytest.mark.slow
def test_row_27_a_killed_data_process_is_exit_code_7_and_the_run_goes_on_after_it(run: Run) -> None:
    ran = run(steps=40, workers=1, checkpoint_every=2, extra=[KillDataProcess()])
    assert isinstance(ran.error, WorkerLostError)
    assert ran.error.exit_code == 7
    assert "lower runtime.workers" in str(ran.error)
    assert run(steps=40, workers=1, checkpoint_every=2).error is None


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 9 bytes")]
)
def test_row_28_memory_that_runs_out_is_told_with_what_takes_it_and_what_to_lower(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def step(self: LitViT, batch: Any, batch_idx: int) -> Any:
        raise error

    monkeypatch.setattr(LitViT, "training_step", step)
    assert moe_bench(*TINY) == 1
    told = capsys.readouterr().err
    assert "memory ran out" in told
    assert "10,164 parameters, 16 pictures at once, groups of 128 tokens, 4 experts × 32 slots" in told
    assert "runtime.device_batch=8" in told
    assert "a bug" not in told
    status = read(only_run(here) / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 1)


def test_row_28_an_allocation_that_the_system_refuses_is_told_likewise(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = resource.getrlimit(resource.RLIMIT_AS), LitViT.training_step

    def step(self: LitViT, batch: Any, batch_idx: int) -> Any:
        batch["image"] = batch["image"].repeat(400, 1, 1, 1)  # whose activations do not fit what is left
        batch["label"] = batch["label"].repeat(400, 1)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 100 * 2**20, before[1]))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(LitViT, "training_step", step)
    try:
        assert moe_bench(*TINY) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "memory ran out: 10,164 parameters" in capsys.readouterr().err


def test_row_28_other_errors_are_not_taken_for_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: LitViT, batch: Any, batch_idx: int) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(LitViT, "training_step", step)
    assert moe_bench(*TINY) == 1
    assert "a bug, sorry: RuntimeError: shapes differ" in capsys.readouterr().err
