"""A run that is interrupted and resumed is the unbroken run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from miniature import SIGMOID_TC, SOFTMAX_TC, Run

from moe_bench.config.schema import ControlRouterConfig, RouterConfig, SoftRouterConfig, SparseRouterConfig
from moe_bench.errors import Interrupted

STEPS = 8


class SignalAt(Callback):
    """Sends this process a signal while a micro-batch is computed."""

    def __init__(self, micro_batch: int, number: int = signal.SIGTERM) -> None:
        self.micro_batch, self.number = micro_batch, number

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == self.micro_batch:
            os.kill(os.getpid(), self.number)


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, in nested containers."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same(a, b)
    else:
        assert one == other


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]
    # A validation that was interrupted is made up for after the row of its step, not before.
    return sorted(found, key=lambda row: (row["step"], sorted(row)))


@pytest.mark.parametrize(
    "router",
    [
        SOFTMAX_TC,
        SparseRouterConfig(name="sinkhorn_ec", affinity="sinkhorn"),
        SoftRouterConfig(noise=0.1),
        SIGMOID_TC,
        ControlRouterConfig("random"),
    ],
    ids=lambda router: router.name,
)
def test_a_stopped_and_resumed_run_equals_the_unbroken_one(run: Run, tmp_path: Path, router: RouterConfig) -> None:
    whole = run("whole", router=router, eval_every=3)
    stopped = run("broken", router=router, eval_every=3, extra=[SignalAt(4)])
    assert isinstance(stopped.error, Interrupted)
    assert stopped.error.exit_code == 143
    assert stopped.trainer.global_step == 5
    resumed = run("broken", router=router, eval_every=3)
    assert resumed.error is None
    assert resumed.trainer.global_step == STEPS
    assert_same(resumed.state(), whole.state())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert resumed.validation.metrics == whole.validation.metrics


@pytest.mark.parametrize("pieces", [1, 2])
def test_several_stops_in_a_row_do_not_add_up(run: Run, tmp_path: Path, pieces: int) -> None:
    whole = run("whole", pieces=pieces, eval_every=3)
    for step in (0, 1, 5, 6):  # the first step, in two steps running, at a validation
        stopped = run("broken", pieces=pieces, eval_every=3, extra=[SignalAt(step * pieces, signal.SIGINT)])
        assert isinstance(stopped.error, Interrupted)
        assert stopped.error.exit_code == 130
        assert stopped.trainer.global_step == step + 1
    resumed = run("broken", pieces=pieces, eval_every=3)
    assert_same(resumed.state(), whole.state())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


class Killed(BaseException):
    """What a kill -9 does to the files: nothing is written any more."""


class KillAt(Callback):
    """Ends the run in one of Lightning's hooks, after all other callbacks."""

    def __init__(self, hook: str, step: int) -> None:
        setattr(self, hook, self.kill)
        self.step = step

    def kill(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 3),  # before the row of a step that is saved
        ("on_train_batch_start", 3),  # after it was saved
        ("on_train_batch_end", 5),
        ("on_validation_end", 6),
        ("on_train_batch_end", STEPS),
        ("on_train_epoch_end", STEPS),  # the last step was saved
        ("on_validation_end", STEPS),  # after the rows that come again
    ],
)
def test_a_run_killed_anywhere_has_every_row_once(run: Run, tmp_path: Path, hook: str, step: int, pieces: int) -> None:
    settings = {"eval_every": 3, "checkpoint_every": 3, "pieces": pieces}
    whole = run("whole", **settings)
    assert isinstance(run("broken", **settings, last=[KillAt(hook, step)]).error, Killed)
    resumed = run("broken", **settings)
    assert resumed.error is None
    assert_same(resumed.state(), whole.state())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_data_processes_change_nothing(run: Run, tmp_path: Path) -> None:
    whole = run("whole", workers=0)
    run("broken", workers=2, extra=[SignalAt(3)])
    resumed = run("broken", workers=2)
    assert_same(resumed.state(), whole.state())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_routing_noise_differs_from_step_to_step(run: Run) -> None:
    seeds = []

    class Draw(Callback):
        def on_before_backward(self, *_: Any) -> None:
            seeds.append(torch.initial_seed())

    run(pieces=2, extra=[Draw()])
    assert len(set(seeds)) == len(seeds) == 2 * STEPS
