"""Schedules, decay groups and updates against the reference's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_numbers import FILES
from torch import nn

from moe_bench.training.optim import Schedule, learning_rate, make_optimizer, parameter_groups

REFERENCE = FILES["schedules"]

SCHEDULES = {
    "warmup_linear_decay": Schedule("linear", 8e-4, 1000, warmup=100, end_lr=1e-5),
    "warmup_cosine_decay": Schedule("cosine", 3e-3, 1000, warmup=100, end_lr=1e-5),
    "big_vision_rsqrt": Schedule("rsqrt", 1e-3, 1000, warmup=100, timescale=100, cooldown=200),
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_are_the_references(name: str) -> None:
    ours = [learning_rate(int(step), SCHEDULES[name]) for step in REFERENCE[f"{name}/steps"]]
    np.testing.assert_allclose(ours, REFERENCE[f"{name}/value"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "rsqrt"])
def test_a_warm_up_starts_at_zero_and_ends_at_the_peak(kind: str) -> None:
    schedule = Schedule(kind, 2e-3, 100, warmup=10, end_lr=1e-5)
    assert learning_rate(0, schedule) == 0
    assert learning_rate(5, schedule) == pytest.approx(1e-3)
    assert learning_rate(10, schedule) == pytest.approx(2e-3)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "rsqrt"])
def test_without_warm_up_the_first_step_has_the_peak(kind: str) -> None:
    assert learning_rate(0, Schedule(kind, 2e-3, 100)) == pytest.approx(2e-3)


def test_a_schedule_may_be_all_warm_up() -> None:
    assert learning_rate(4, Schedule("cosine", 1.0, 4, warmup=4)) == pytest.approx(1.0)


def test_warm_up_and_cooldown_longer_than_the_run_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"warmup 60 .* cooldown 50 .* 100 steps"):
        Schedule("rsqrt", 1.0, 100, warmup=60, cooldown=50)
    Schedule("cosine", 1.0, 100, warmup=60, cooldown=50)  # a cosine has no cooldown


class TwoLayers(nn.Module):
    """The reference's three parameters; a torch kernel is (out, in), theirs (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(REFERENCE.tensor("adam.step0/Moe.Mlp.kernel"))
        self.head = nn.Linear(4, 3)
        self.head.weight.data = REFERENCE.tensor("adam.step0/head.kernel").T.contiguous()
        self.head.bias.data = REFERENCE.tensor("adam.step0/head.bias")

    def named_arrays(self, grad: bool = False) -> dict[str, torch.Tensor]:
        named = {"Moe.Mlp.kernel": self.w1, "head.kernel": self.head.weight, "head.bias": self.head.bias}
        tensors = {name: parameter.grad if grad else parameter.data for name, parameter in named.items()}
        return {name: value.T if name == "head.kernel" else value for name, value in tensors.items()}


def test_six_adam_steps_with_clip_and_decay_by_name_are_the_references() -> None:
    model = TwoLayers()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(parameter_groups(model, 0.03, head_decay=3.0), "adamw")
    schedule = Schedule("linear", 1e-2, 10, warmup=2, end_lr=1e-3)
    for step in range(5):
        for name, grad in model.named_arrays(grad=True).items():
            grad.copy_(REFERENCE.tensor(f"adam.step{step + 1}/grad.{name}"))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        optimizer.step()
        for name, value in model.named_arrays().items():
            np.testing.assert_allclose(value.numpy(), REFERENCE[f"adam.step{step + 1}/{name}"], atol=1e-6, rtol=0)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.norm = nn.LayerNorm(4)
        self.gate = nn.Linear(4, 2, bias=False)
        self.w1, self.b1 = nn.Parameter(torch.ones(2, 4, 4)), nn.Parameter(torch.ones(2, 4))
        self.w2 = nn.Parameter(torch.ones(2, 4, 4))
        self.slots = nn.Parameter(torch.ones(4, 2, 3))
        self.pos_embed, self.cls_token = nn.Parameter(torch.ones(1, 5, 4)), nn.Parameter(torch.ones(1, 1, 4))
        self.head = nn.Linear(4, 3)


def decay_of_names(model: nn.Module, **options: float | str) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.1, **options)  # type: ignore[arg-type]
    return {names[p]: group["weight_decay"] for group in groups for p in group["params"]}


def test_kernels_decay_and_nothing_else_does() -> None:
    decay = decay_of_names(Named())
    decayed = {"patch_embed.weight", "gate.weight", "w1", "w2", "head.weight"}
    assert {name for name, amount in decay.items() if amount == 0.1} == decayed
    assert {amount for name, amount in decay.items() if name not in decayed} == {0.0}
    assert set(decay) == {name for name, _ in Named().named_parameters()}


def test_the_head_has_a_decay_of_its_own_under_both_rules() -> None:
    assert decay_of_names(Named(), head_decay=3.0)["head.weight"] == 3.0
    everything = decay_of_names(Named(), decay="all", head_decay=3.0)
    assert everything.pop("head.weight") == 3.0
    assert set(everything.values()) == {0.1}


def test_frozen_parameters_are_not_optimised() -> None:
    model = Named()
    model.patch_embed.requires_grad_(False)
    assert not any(name.startswith("patch_embed") for name in decay_of_names(model))


def test_sgd_has_momentum() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer([{"params": [weight], "weight_decay": 0.0}], "sgd", momentum=0.9)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    for _ in range(2):
        weight.grad = torch.ones(2)
        optimizer.step()
    assert weight.tolist() == pytest.approx([-2.9, -2.9])
