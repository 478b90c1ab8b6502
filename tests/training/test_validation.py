"""Every picture once, at the right steps, on padded batches too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from miniature import CLASSES, VAL, Run

from moe_bench.config.schema import DenseRouterConfig
from moe_bench.errors import DataError, Interrupted
from moe_bench.training.objective import losses, targets
from moe_bench.training.stop import EXIT_CODES, StopSignals


def validated(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "val/loss" in row]


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(0, 8, [8]), (3, 8, [3, 6, 8]), (4, 8, [4, 8]), (8, 8, [8]), (20, 8, [8])]
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_end_is_validated_exactly_once(
    run: Run, tmp_path: Path, every: int, steps: int, expected: list[int], pieces: int
) -> None:
    run(steps=steps, eval_every=every, pieces=pieces)
    assert [row["step"] for row in validated(tmp_path / "run")] == expected


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_every_picture_counts_once_and_padding_never(run: Run, tmp_path: Path, loss: str) -> None:
    """Against one batch of all pictures; dense, so that nothing depends on who shares a batch."""
    ran = run(router=DenseRouterConfig(), loss=loss)
    data = ran.trainer.datamodule
    batches = list(data.val_dataloader())
    images, labels = (torch.cat([batch[key][batch["valid"]] for batch in batches]) for key in ("image", "label"))
    assert len(images) == VAL < sum(len(batch["image"]) for batch in batches)
    ran.module.eval()
    with torch.no_grad():
        logits = ran.module.model(images)
    metrics = ran.validation.metrics
    assert metrics["val/count"] == VAL
    each = losses(logits, targets(labels, CLASSES, loss), loss)
    assert metrics["val/loss"] == pytest.approx(float(each.mean()), rel=1e-5)
    assert metrics["val/prec1"] == pytest.approx(float((logits.argmax(1) == labels[:, 0]).double().mean()))


def test_lost_pictures_are_an_error(run: Run) -> None:
    class Lie(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            from moe_bench.training.validation import Validation

            (validation,) = [c for c in trainer.callbacks if isinstance(c, Validation)]
            validation.size += 1

    ran = run(extra=[Lie()])
    assert isinstance(ran.error, DataError)
    assert f"counted {VAL} pictures of {VAL + 1}" in str(ran.error)


def test_validation_leaves_training_mode_and_random_numbers_as_they_were(run: Run, tmp_path: Path) -> None:
    often, never = run("often", eval_every=1), run("never")
    for name, value in often.module.state_dict().items():
        assert torch.equal(value, never.module.state_dict()[name])


def test_other_callbacks_hear_of_it_and_find_the_result(run: Run) -> None:
    heard: list[str] = []

    class Listen(Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            heard.append("start")

        def on_validation_batch_end(self, *_: Any) -> None:
            heard.append("batch")

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            heard.append(f"end {float(trainer.callback_metrics['val/count']):.0f}")

    run(extra=[Listen()])
    assert heard == ["start", *["batch"] * 3, f"end {VAL}"]


def test_what_callbacks_find_is_the_logged_figure_to_the_last_bit(run: Run) -> None:
    heard: list[float] = []

    class Listen(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            heard.append(float(trainer.callback_metrics["val/loss"]))

    ran = run(extra=[Listen()])
    assert heard[-1] == ran.validation.metrics["val/loss"]


class StopInValidation(Callback):
    """A signal arrives while the pictures of validation number ``which`` are computed."""

    def __init__(self, which: int) -> None:
        self.left = which

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        import os
        import signal

        self.left -= batch_idx == 0
        if self.left < 0 and batch_idx == 0:
            self.left = 99
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_run_stopped_during_validation_makes_up_for_it(run: Run, tmp_path: Path, which: int) -> None:
    whole = run("whole", eval_every=3)
    stopped = run("broken", eval_every=3, extra=[StopInValidation(which)])
    assert isinstance(stopped.error, Interrupted)
    assert stopped.trainer.global_step == [3, 6, 8][which]
    resumed = run("broken", eval_every=3)
    assert resumed.error is None
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value)
    ours, theirs = validated(tmp_path / "broken"), validated(tmp_path / "whole")
    assert [{**row, "time": 0} for row in ours] == [{**row, "time": 0} for row in theirs]


def test_a_finished_run_fits_no_more_and_keeps_its_result(run: Run, tmp_path: Path) -> None:
    first, again = run(), run()
    assert again.error is None
    assert again.trainer.global_step == 8
    assert again.validation.metrics == first.validation.metrics


def test_signals_map_to_their_exit_codes() -> None:
    assert sorted(EXIT_CODES.values()) == [130, 143]
    with StopSignals() as signals:
        signals.check()
