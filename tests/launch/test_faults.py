"""What becomes of a real run on two ranks when one of them is killed, stuck, signalled or meets an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

QUICK = [
    "debug=fast", "runtime=ddp", "runtime.workers=0", "runtime.log_every=1", "recipe.steps=6", "probe.sets=[]",
    "model.width=32", "model.depth=2", "model.mlp=64", "model.moe_blocks=[1]",
]  # fmt: skip
WITHIN_S = 120.0  # of starting; on a machine that other work shares

pytestmark = pytest.mark.slow


class Ended:
    """A run that has ended, in a folder of its own."""

    def __init__(self, here: Path, *words: str, fault: str = "", act: Callable[[psutil.Process], None] | None = None):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MOE_BENCH_FAULT": fault}
        command = [sys.executable, "-m", "moe_bench", *QUICK, *words]
        with subprocess.Popen(
            command, cwd=here, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as started:  # fmt: skip
            if act is not None:
                act(psutil.Process(started.pid))
            self.out, self.err = started.communicate(timeout=WITHIN_S)
        self.code = started.returncode
        (self.folder,) = (path for path in (here / "runs").iterdir() if path.is_dir())
        self.left = [p for p in psutil.process_iter() if _session(p.pid) == started.pid]

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return found

    def steps(self) -> list[int]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [row["step"] for row in map(json.loads, lines) if "train/loss" in row]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def told_once(ended: Ended, words: str) -> bool:
    return ended.err.count("moe-bench: ") == 1 and words in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize("victim", [0, 1])
def test_survivors_of_a_killed_rank_end_with_code_7_and_name_it(tmp_path: Path, victim: int) -> None:
    ended = Ended(tmp_path, "recipe.checkpoint_every=2", fault=f"kill:{victim}:3")
    assert (ended.code, ended.left) == (7, [])
    assert told_once(ended, f"rank {victim} (process ")
    assert "was killed by SIGKILL at step 3" in ended.err
    assert (ended.status["state"], ended.status["exit_code"]) == ("failed", 7)
    assert f"rank {victim} " in ended.status["reason"]
    again = Ended(tmp_path)
    assert (again.code, again.steps()) == (0, [1, 2, 3, 4, 5, 6])
    assert "resuming from step 2" in again.out


def test_a_stuck_rank_is_named_when_the_others_have_waited_long_enough(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = Ended(tmp_path, "runtime.timeout_s=10", fault="stuck:1:3")
    assert (ended.code, ended.left) == (7, [])
    assert told_once(ended, "rank 1 (process ")
    assert "was stuck at step 3: the others waited 10 s for it (runtime.timeout_s)" in ended.err
    assert time.monotonic() - started < WITHIN_S
    assert "stuck at step 3" in ended.status["reason"]


@pytest.mark.parametrize(("event", "code", "state"), [("term", 143, "preempted"), ("int", 130, "interrupted")])
def test_a_signal_to_one_rank_stops_both_after_the_same_step_and_saves_it(
    tmp_path: Path, event: str, code: int, state: str
) -> None:
    ended = Ended(tmp_path, fault=f"{event}:1:2")
    assert (ended.code, ended.left) == (code, [])
    assert told_once(ended, "step 2 is saved, and the same command goes on from there")
    assert (ended.status["state"], ended.status["exit_code"]) == (state, code)
    again = Ended(tmp_path, "runtime=fsdp")
    assert (again.code, again.steps()) == (0, [1, 2, 3, 4, 5, 6])


def signal_all(number: signal.Signals) -> Callable[[psutil.Process], None]:
    """To every process of the run at once, as a scheduler does, when it has trained a step."""

    def act(run: psutil.Process) -> None:
        folder = Path(run.cwd()) / "runs"
        while not any('"train/loss"' in file.read_text() for file in folder.glob("*/metrics.jsonl")):
            time.sleep(0.05)
        os.killpg(run.pid, number)

    return act


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_stops_them_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    ended = Ended(tmp_path, "recipe.steps=2000", act=signal_all(number))
    assert (ended.code, ended.left) == (code, [])
    assert "is saved, and the same command goes on from there" in ended.err
    assert ended.err.count("stopped by") == 1
    assert len(list((ended.folder / "checkpoints").glob("step-*"))) == 1


def test_a_loss_that_is_nan_on_one_rank_stops_both_before_the_update(tmp_path: Path) -> None:
    ended = Ended(tmp_path, fault="nan:1:3")
    assert (ended.code, ended.left) == (5, [])
    assert told_once(ended, "loss is nan at step 3")
    assert ended.status["state"] == "diverged"


def test_an_error_of_one_rank_is_told_once_and_its_code_returned(tmp_path: Path) -> None:
    ended = Ended(tmp_path, fault="data:1:3")
    assert (ended.code, ended.left) == (3, [])
    assert told_once(ended, "a broken picture, on purpose")
    assert (ended.status["exit_code"], ended.status["reason"]) == (3, "a broken picture, on purpose")


def test_two_ranks_print_what_one_does(tmp_path: Path) -> None:
    ended = Ended(tmp_path)
    assert (ended.code, ended.left, ended.err) == (0, [], "")
    assert ended.out.count("device    2 × CPU, ddp, 32-true") == 1
    assert ended.out.count("step 3/6") == 1
    assert ended.out.count(" finished ─") == 1
    skipped = Ended(tmp_path)
    assert (skipped.code, skipped.out.count("skipped")) == (0, 1)


def by_torchrun(here: Path, *words: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "moe_bench", *QUICK]
    return subprocess.run(
        [sys.executable, *command, *words], cwd=here, capture_output=True, text=True, timeout=2 * WITHIN_S,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MOE_BENCH_FAULT": fault},
    )  # fmt: skip


@pytest.mark.parametrize("victim", [0, 1])
def test_row_26_a_rank_of_torchrun_that_is_stuck_is_named_once_too(tmp_path: Path, victim: int) -> None:
    done = by_torchrun(tmp_path, "runtime.timeout_s=5", fault=f"stuck:{victim}:3")
    assert done.returncode != 0  # torchrun has one of its own
    named = f"moe-bench: rank {victim} of 2 is stuck: the others waited 5 s (runtime.timeout_s)"
    assert done.stderr.count(named) == done.stderr.count("moe-bench: rank") == 1


def test_torchrun_starts_ranks_too(tmp_path: Path) -> None:
    done = by_torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" finished ─") == 1
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 1
