"""C. Signals, memory that runs out and data processes that die, in a whole run of one rank. Rows 23, 24, 27 and 28.

Signals between two steps are in tests/training/test_resume.py as well, several ranks (23 to 26) in
tests/launch/test_faults.py.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from lightning.pytorch import Callback
from miniature import Run

from faults.command import TINY, figures, moe_bench, only_run, read
from moe_bench.errors import WorkerLostError
from moe_bench.training.module import LitViT

STRUCK = """
import os, signal, sys
from importlib import import_module
owner = import_module({owner!r})
real = owner.{name}
def struck(*args, **kwargs):
    owner.{name} = real
    for number in {signals}:
        os.kill(os.getpid(), number)
    return real(*args, **kwargs)
owner.{name} = struck
from moe_bench.__main__ import main
sys.argv[0] = "moe-bench"
sys.exit(main())
"""
"""The command, with signals to itself when it first comes to some function."""

BEFORE_THE_FIRST_STEP = "moe_bench.build fit"
WHILE_IT_VALIDATES = "moe_bench.training.validation sums"
WHILE_IT_SAVES = "moe_bench.training.store write"

WORDS = [*TINY, "probe.sets=[]", "recipe.steps=4", "recipe.eval_every=2", "recipe.checkpoint_every=3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The figures of a run that nothing struck."""
    folder = tmp_path_factory.mktemp("whole")
    assert moe_bench(*WORDS, f"runs_dir={folder}/runs") == 0
    return by_kind(only_run(folder))


def by_kind(run: Path) -> list[dict[str, Any]]:
    """The figures, those of a measurement after those of its step: a run that stopped in between has them so."""
    return sorted(figures(run), key=lambda row: (row["step"], "val/loss" in row))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "signals", "code", "saved"),
    [
        (BEFORE_THE_FIRST_STEP, ["SIGTERM"], 143, ()),
        (BEFORE_THE_FIRST_STEP, ["SIGINT"], 130, ()),
        (WHILE_IT_VALIDATES, ["SIGTERM"], 143, (2,)),
        (WHILE_IT_VALIDATES, ["SIGINT"], 130, (2,)),
        (WHILE_IT_SAVES, ["SIGTERM"], 143, (3, 4)),  # this step or, as training goes on meanwhile, the next
        (WHILE_IT_SAVES, ["SIGINT"], 130, (3, 4)),
        (WHILE_IT_SAVES, ["SIGINT", "SIGTERM"], 143, ()),  # the second leaves at once
    ],
)
def test_rows_23_and_24_a_signal_whenever_it_comes_leaves_a_run_that_goes_on_to_the_same_figures(
    here: Path, whole: list[dict[str, Any]], place: str, signals: list[str], code: int, saved: tuple[int, ...]
) -> None:
    owner, name = place.split()
    numbers = [int(signal.Signals[number]) for number in signals]
    script = STRUCK.format(owner=owner, name=name, signals=numbers)
    with subprocess.Popen(
        [sys.executable, "-c", script, *WORDS, "runtime.workers=1"], start_new_session=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as struck:  # fmt: skip
        said = struck.communicate(timeout=120)[1]
    assert struck.returncode == code, said
    assert "Traceback" not in said
    run = only_run(here)
    if len(signals) == 1:
        assert said.count("moe-bench: stopped by ") == 1
        status = read(run / "status.json")
        assert (status["state"], status["exit_code"]) == ("preempted" if code == 143 else "interrupted", code)
    steps = [int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")]
    assert set(steps) <= set(saved)
    assert bool(steps) == bool(saved)
    wait_for_the_end_of(struck.pid)
    assert moe_bench(*WORDS) == 0
    assert by_kind(run) == whole


def wait_for_the_end_of(group: int) -> None:
    """A data process looks every 5 seconds whether its run is still there."""
    deadline = time.monotonic() + 20
    with suppress(ProcessLookupError):
        while os.killpg(group, 0) is None:
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.1)


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
