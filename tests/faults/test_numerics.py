"""A. Numbers that are not finite, spikes, and routing that collapses. Rows 1, 3, 4 and 5 of the fault matrix."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from miniature import SIGMOID_TC, Run

from faults.command import TINY, moe_bench, only_run, read
from moe_bench.errors import DivergedError
from moe_bench.training.module import LitViT
from moe_bench.training.watch import Watch

BAD = 5  # the step, counted from 0, that goes wrong


class BadPicture(Callback):
    """Not-a-numbers in the pictures of some steps, and so in the loss. Keeps the weights from before and after each."""

    def __init__(self, *steps: int, value: float = float("nan")) -> None:
        self.steps, self.value = steps, value
        self.before: dict[int, dict[str, Any]] = {}
        self.after: dict[int, dict[str, Any]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in self.steps:
            self.before[trainer.global_step] = copy(trainer)
            batch["image"].fill_(self.value)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step - 1 in self.steps:
            self.after[trainer.global_step - 1] = copy(trainer)


class BadGradient(BadPicture):
    """A gradient that is not finite, or too large, under a loss that is as it should be."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in self.steps:
            self.before[trainer.global_step] = copy(trainer)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step in self.steps:
            pl_module.model.head.weight.grad.mul_(self.value)


def copy(trainer: Any) -> dict[str, Any]:
    """All that a step changes."""
    (optimizer,) = trainer.optimizers
    parts = {f"weights/{name}": value for name, value in trainer.lightning_module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        parts |= {f"{number}/{name}": value for name, value in state.items()}
    return {name: torch.as_tensor(value).clone() for name, value in parts.items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights(ran: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in ran.module.state_dict().items()}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (BadPicture(BAD), "loss is nan"),
        (BadPicture(BAD, value=float("inf")), "loss is nan"),
        (BadGradient(BAD, value=float("nan")), "gradient norm is nan"),
        (BadGradient(BAD, value=float("inf")), "gradient norm is inf"),
    ],
    ids=["row 1: nan", "row 1: inf", "row 3: nan", "row 3: inf"],
)
def test_row_1_and_3_what_is_not_finite_changes_no_weight_and_stops_the_run(
    run: Run, fault: BadPicture, said: str
) -> None:
    ran = run(extra=[fault], checkpoint_every=2)
    assert isinstance(ran.error, DivergedError)
    assert str(ran.error).startswith(f"{said} at step {BAD} (router=softmax_tc, lr=")
    assert "The weights were not updated" in str(ran.error)
    assert ("router logits not finite" if "loss" in said else "largest router logit 2.") in str(ran.error)
    assert ran.trainer.global_step == BAD
    saved = fault.before[BAD]
    assert all(torch.equal(value, saved[f"weights/{name}"]) for name, value in weights(ran).items())


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("fault", [BadPicture, BadGradient])
def test_row_4_a_bad_step_may_be_left_out_and_training_goes_on(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: type[BadPicture], pieces: int
) -> None:
    bad = fault(2, BAD)
    with caplog.at_level(logging.WARNING):
        ran = run(skip=2, extra=[bad], pieces=pieces, router=SIGMOID_TC)  # whose biases follow the loads of a step
    assert ran.error is None
    assert ran.trainer.global_step == 8
    for step in (2, BAD):
        assert equal(bad.before[step], bad.after[step])
    assert caplog.text.count("the step is left out") == 2
    assert "2 of 100 steps may be left out (recipe.skip)" in caplog.text
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/skipped"] for row in told if "train/skipped" in row] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert all(torch.isfinite(value).all() for value in weights(ran).values())
    assert ran.module.figures() == {"steps/skipped": 2}


def test_row_4_one_bad_step_too_many_is_divergence(run: Run) -> None:
    ran = run(skip=2, extra=[BadPicture(1, 3, BAD)])
    assert isinstance(ran.error, DivergedError)
    assert f"at step {BAD} " in str(ran.error)
    assert "2 of 100 steps may be left out (recipe.skip)" in str(ran.error)


def test_row_4_a_spike_is_left_out_and_the_next_step_is_taken(run: Run) -> None:
    bad = BadGradient(14, value=1e4)
    ran = run(steps=20, skip=1, spike=20.0, extra=[bad])
    assert ran.error is None
    assert equal(bad.before[14], bad.after[14])
    assert ran.module.figures() == {"steps/skipped": 1}


def test_row_4_what_was_left_out_is_remembered_by_checkpoints(run: Run) -> None:
    """Two bad steps before the break and one after it are too many, as they are without a break."""
    broken = run("broken", skip=2, checkpoint_every=4, extra=[BadPicture(1, 2)], last=[StopAt(4)])
    assert isinstance(broken.error, ConnectionError)
    resumed = run("broken", skip=2, checkpoint_every=4, extra=[BadPicture(BAD)])
    assert isinstance(resumed.error, DivergedError)
    assert resumed.trainer.global_step == BAD


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise ConnectionError


def test_row_4_the_window_moves_on() -> None:
    watch = Watch(allowed=1)
    for _ in range(3):
        assert watch.skip()
        for _ in range(99):
            watch.take(1.0)
    assert watch.skip()
    assert not watch.skip()
    assert watch.skipped == 5


def test_row_4_no_gradient_is_a_spike_before_there_is_something_to_compare_with() -> None:
    watch = Watch(allowed=1, spike=2.0)
    for _ in range(10):
        assert watch.fault(1.0, 1e6) is None
        watch.take(1.0)
    assert watch.fault(1.0, 2.1) == "gradient norm is 2.1, 2.1 times its median"
    assert watch.fault(1.0, 1.9) is None


def test_row_1_a_diverged_run_says_so_in_its_status_its_exit_code_and_the_report(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LitViT.training_step

    def step(self: LitViT, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 2:
            batch["image"].fill_(float("nan"))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(LitViT, "training_step", step)
    assert moe_bench(*TINY, "recipe.steps=4", "recipe.checkpoint_every=1") == 5
    told = capsys.readouterr().err
    assert "loss is nan at step 2 (router=softmax_ec, lr=" in told
    assert "Traceback" not in told
    status = read(only_run(here) / "status.json")
    assert (status["state"], status["exit_code"], status["step"]) == ("diverged", 5, 2)
    assert "loss is nan" in status["reason"]
    assert status["checkpoint"] == "step-00000002"
    assert {"pid", "host", "attempt"} <= status.keys()
    assert not (only_run(here) / "summary.json").exists()
    assert moe_bench("report", "runs") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "diverged at step 2 of 4: loss is nan" in printed


def test_row_5_a_collapsed_router_is_warned_of_once_and_is_no_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "collapsed.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from moe_bench.routing import token_choice\n"
        "class ToTheFirst(nn.Module):\n"
        "    def __init__(self, dim, experts, *, capacity, tokens):\n"
        "        super().__init__()\n"
        "        self.experts, self.capacity = experts, capacity\n"
        "    def forward(self, x, mask=None):\n"
        "        gates = torch.eye(self.experts)[0].expand(*x.shape[:2], -1)\n"
        "        slots = self.capacity.slots(x.shape[1], self.experts)\n"
        "        return token_choice(gates, gates, k=1, capacity=slots, mask=mask)\n"
    )
    mine = ["router=softmax_tc", "router.name=collapsed", "router.impl=collapsed:ToTheFirst"]
    assert moe_bench(*mine, *TINY, "recipe.steps=6") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("routing collapsed in blocks.1: 100.0 % of the tokens go to expert 0") == 1
    assert "tokens dropped" in printed
