"""One training step: what it computes, logs and refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from miniature import CLASSES, SIGMOID_TC, Run
from torch.utils.checkpoint import checkpoint

from moe_bench.config.schema import DenseRouterConfig, SparseRouterConfig
from moe_bench.errors import CheckpointError, DivergedError
from moe_bench.training import store
from moe_bench.training.objective import losses, mixup, mixup_weight, targets
from moe_bench.training.optim import Schedule, learning_rate
from moe_bench.training.randomness import stream


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class SpoilAt(Callback):
    """Makes the loss or a gradient nan in one micro-batch."""

    def __init__(self, micro_batch: int, what: str) -> None:
        self.micro_batch, self.what = micro_batch, what
        self.before: dict[str, torch.Tensor] = {}

    def _here(self, trainer: Any) -> bool:
        return bool(trainer.fit_loop.epoch_loop.batch_idx == self.micro_batch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.micro_batch:
            self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}
            if self.what == "loss":
                batch["image"][0] = float("nan")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.what == "gradient" and self._here(trainer):
            pl_module.model.head.bias.grad[0] = float("inf")


@pytest.mark.parametrize(("what", "named"), [("loss", "loss is nan"), ("gradient", "gradient norm is inf")])
def test_a_value_that_is_not_finite_stops_the_run_before_the_update(run: Run, what: str, named: str) -> None:
    spoil = SpoilAt(3, what)
    ran = run(extra=[spoil])
    assert isinstance(ran.error, DivergedError)
    assert f"{named} at step 3 (router=softmax_tc, lr=" in str(ran.error)
    assert ran.error.exit_code == 5
    for name, value in ran.module.state_dict().items():
        assert torch.equal(value, spoil.before[name])


def test_a_rate_far_too_high_diverges_and_says_so(run: Run) -> None:
    ran = run(lr=1e30, steps=20, clip=None)
    assert isinstance(ran.error, DivergedError)
    assert "recipe.lr" in str(ran.error)


def test_the_rate_of_each_step_is_the_schedules_and_rows_count_updates_done(run: Run, tmp_path: Path) -> None:
    run(steps=6)
    told = [row for row in rows(tmp_path / "run") if "lr" in row]
    schedule = Schedule("cosine", 1e-2, 6, warmup=2)
    assert [row["step"] for row in told] == [1, 2, 3, 4, 5, 6]
    assert [row["samples_seen"] for row in told] == [8 * step for step in range(1, 7)]
    assert [row["lr"] for row in told] == pytest.approx([learning_rate(step, schedule) for step in range(6)], rel=1e-6)
    assert set(told[0]) >= {"train/loss", "train/aux_loss", "train/prec1", "grad_norm"}
    assert all(row["train/aux_loss"] > 0 for row in told)


def test_the_first_update_of_a_warm_up_changes_nothing(run: Run) -> None:
    class Keep(Callback):
        weights: dict[str, torch.Tensor]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            same = [torch.equal(value, self.weights[name]) for name, value in pl_module.state_dict().items()]
            assert all(same) == (batch_idx == 0)

    assert run(steps=3, extra=[Keep()]).error is None


class Gradients(Callback):
    """Norms after clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters()])))


def test_gradients_are_clipped_to_the_global_norm_and_the_norm_before_is_told(run: Run, tmp_path: Path) -> None:
    clipped, free = Gradients(), Gradients()
    assert run("clipped", clip=0.01, extra=[clipped]).error is None
    assert run("free", clip=None, extra=[free]).error is None
    assert clipped.norms == pytest.approx([0.01] * 8, rel=1e-3)
    told = [row["grad_norm"] for row in rows(tmp_path / "free") if "grad_norm" in row]
    assert free.norms == pytest.approx(told, rel=1e-5)
    assert min(told) > 0.01


def test_accumulated_pieces_make_the_step_of_the_whole_batch(run: Run, tmp_path: Path) -> None:
    """Without what is random in a piece, and with routing groups that no piece cuts."""
    router = SparseRouterConfig(name="softmax_ec", noise=0.0)

    class NoDropout(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            for part in pl_module.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0

    run("whole", router=router, mixup_alpha=0.0, extra=[NoDropout()])
    run("pieces", router=router, mixup_alpha=0.0, pieces=2, extra=[NoDropout()])
    for name in ("train/loss", "grad_norm", "train/prec1"):
        whole, pieces = ([row[name] for row in rows(tmp_path / run) if "lr" in row] for run in ("whole", "pieces"))
        assert pieces == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_step_mixes_images_and_targets_by_the_share_of_its_place(run: Run, loss: str) -> None:
    class Expect(Callback):
        expected: torch.Tensor
        checked = 0

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            place = (0, batch_idx // 2, batch_idx % 2)  # seed, step, piece
            share = mixup_weight(0.2, place)
            torch.manual_seed(stream(*place))
            target = mixup(targets(batch["label"], CLASSES, loss), share)
            with torch.no_grad():
                logits = pl_module.model(mixup(batch["image"], share))
            self.expected = losses(logits, target, loss).mean() / 2

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            torch.testing.assert_close(loss.detach(), self.expected)
            self.checked += 1

    expect = Expect()
    ran = run(steps=3, pieces=2, loss=loss, router=DenseRouterConfig(), mixup_alpha=0.2, extra=[expect])
    assert (ran.error, expect.checked) == (None, 6)


@pytest.mark.parametrize("pieces", [1, 2])
def test_biases_move_once_a_step_by_the_load_of_all_its_pieces_and_not_while_evaluating(run: Run, pieces: int) -> None:
    class Expect(Callback):
        def __init__(self) -> None:
            self.load = self.bias = torch.zeros(4)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            router = pl_module.model.blocks[1].mlp.router
            router.register_forward_hook(self.count)

        def count(self, router: Any, _: Any, routing: Any) -> None:
            if router.training:
                self.load = self.load + routing.demand.sum(0)
            else:
                assert torch.equal(router.bias, self.bias)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (batch_idx + 1) % pieces == 0:
                assert self.load.sum() == 8 * 4 * 2  # pictures, tokens of each, experts of each
                self.bias, self.load = self.bias + 0.01 * (16 - self.load).sign(), torch.zeros(4)
            torch.testing.assert_close(pl_module.model.blocks[1].mlp.router.bias, self.bias)

    expect = Expect()
    assert run(router=SIGMOID_TC, pieces=pieces, eval_every=2, extra=[expect]).error is None
    assert expect.bias.any()


def test_a_forward_pass_that_checkpointing_repeats_is_counted_once(run: Run) -> None:
    class Recompute(Callback):
        passes = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            block = pl_module.model.blocks[1]
            block.mlp.router.register_forward_hook(self.count)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

        def count(self, router: Any, _: Any, routing: Any) -> None:
            self.passes += router.training

    recompute = Recompute()
    repeated, plain = run("repeated", router=SIGMOID_TC, extra=[recompute]), run("plain", router=SIGMOID_TC)
    assert recompute.passes == 2 * 8
    bias = "model.blocks.1.mlp.router.bias"
    assert torch.equal(repeated.module.state_dict()[bias], plain.module.state_dict()[bias])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_miniature_learns(run: Run, loss: str) -> None:
    ran = run(steps=40, loss=loss, mixup_alpha=0.0)
    assert ran.validation.metrics["val/prec1"] > 0.6


def test_another_models_checkpoint_is_named_as_such(run: Run) -> None:
    run()
    ran = run(router=DenseRouterConfig())
    assert isinstance(ran.error, CheckpointError)
    assert "is of another model" in str(ran.error)


def test_checkpoints_hold_no_settings_objects(run: Run, tmp_path: Path) -> None:
    run()
    state = store.load(tmp_path / "run" / "checkpoints" / "step-00000008")  # weights_only: else it would not load
    assert "hyper_parameters" not in state
