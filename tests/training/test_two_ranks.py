"""Two ranks over gloo learn what one process learns from the same global batch."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from miniature import SOFTMAX_TC, Splits, train
from pair import on_ranks

from moe_bench.config.schema import DenseRouterConfig, RouterConfig, SoftRouterConfig, SparseRouterConfig
from moe_bench.training.group import Group

ROUTERS: dict[str, RouterConfig] = {
    "softmax_tc": SOFTMAX_TC,
    "sinkhorn_tc": SparseRouterConfig(name="sinkhorn_tc", affinity="sinkhorn", choice="token"),
    "softmax_ec": SparseRouterConfig(name="softmax_ec"),
    "sinkhorn_ec": SparseRouterConfig(name="sinkhorn_ec", affinity="sinkhorn", combine="plan"),
    "sparse_ec": SparseRouterConfig(name="sparse_ec", affinity="sparse", noise=0.0),
    "soft": SoftRouterConfig(noise=0.1),
    "dense": DenseRouterConfig(),
    "starved": replace(SOFTMAX_TC, name="starved", noise=0.0, importance=0.0, load=0.0),
}
NOISY = ("softmax_tc", "sinkhorn_ec", "soft")
"""Routers whose noise must not depend on how a step is cut; the rest of what is random is off."""
EXACT: dict[str, Any] = {"dropout": 0.0, "mixup_alpha": 0.0}


class Starve(Callback):
    """All logits are equal, so every token asks for expert 0 and the other experts get none, on any rank."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        torch.nn.init.zeros_(pl_module.model.blocks[1].mlp.router.gate.weight)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradient = pl_module.model.blocks[1].mlp.experts.w1.grad
        assert gradient is not None


def learn(folder: Path, splits: Splits, **settings: Any) -> None:
    """Every router, in pieces of half a batch; and the noisy ones, one piece a device."""
    for name, router in ROUTERS.items():
        extra = [Starve()] if name == "starved" else []
        ran = train(splits, folder / name, router=router, pieces=2, eval_every=3, extra=extra, **settings)
        assert ran.error is None, (name, ran.error)
    for name in NOISY:
        pieces = settings.get("devices", 1)
        ran = train(splits, folder / f"{name}-exact", router=ROUTERS[name], pieces=pieces, **EXACT, **settings)
        assert ran.error is None, (name, ran.error)


LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "ddp-experts": {"strategy": "ddp", "expert_parallel": 2},
    "fsdp-experts": {"strategy": "fsdp", "expert_parallel": 2},
}


def learn_together(group: Group, folder: Path, splits: Splits, layout: str) -> None:
    learn(folder, splits, devices=group.rank.world, group=group, **LAYOUTS[layout])


def learn_in_replicas(group: Group, folder: Path, splits: Splits) -> None:
    """Two rows of two ranks: each row has all experts, each column the same half of them."""
    common: dict[str, Any] = {"devices": group.rank.world, "expert_parallel": 2, "group": group}
    for strategy in ("ddp", "fsdp"):
        ran = train(splits, folder / strategy, steps=4, pieces=4, strategy=strategy, **common)
        assert ran.error is None, (strategy, ran.error)


class Dtypes(Callback):
    """In which precision parameters are computed with, by name."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for name, part in pl_module.model.blocks[1].named_modules():
            part.register_forward_pre_hook(partial(self._keep, name))

    def _keep(self, name: str, part: torch.nn.Module, args: Any) -> None:
        inside = part.named_parameters(name)  # what lies deeper is gathered later, and then told again
        self.seen |= {name: str(value.dtype).removeprefix("torch.") for name, value in inside}


def learn_in_halves(group: Group, folder: Path, splits: Splits) -> dict[str, str]:
    """In bfloat16 under DDP and FSDP, and FSDP with experts that do not divide among the ranks."""
    common: dict[str, Any] = {"pieces": 2, "steps": 4, "devices": group.rank.world, "group": group}
    dtypes = Dtypes()
    for strategy, extra in (("ddp", []), ("fsdp", [dtypes])):
        settings = {"strategy": strategy, "precision": "bf16", "extra": extra, **common}
        assert train(splits, folder / strategy, router=ROUTERS["sinkhorn_ec"], **settings).error is None
    assert train(splits, folder / "three", strategy="fsdp", experts=3, **common).error is None
    return dtypes.seen


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


@pytest.fixture(scope="module")
def alone(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns."""
    folder = tmp_path_factory.mktemp("alone")
    learn(folder, splits)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_norms_and_metrics_of_every_router_are_those_of_one_process(
    alone: Path, splits: Splits, tmp_path: Path, layout: str
) -> None:
    on_ranks(learn_together, tmp_path, splits, layout)
    for name in (*ROUTERS, *(f"{name}-exact" for name in NOISY)):
        together, expected = rows(tmp_path / name), rows(alone / name)
        assert [sorted(row) for row in together] == [sorted(row) for row in expected]
        for row, other in zip(together, expected):
            assert row == pytest.approx(other, rel=1e-5, abs=1e-5), (name, row["step"])


@pytest.mark.slow
def test_rows_of_ranks_that_share_the_experts_learn_what_one_process_does(splits: Splits, tmp_path: Path) -> None:
    on_ranks(learn_in_replicas, tmp_path, splits, ranks=4)
    assert train(splits, tmp_path / "alone", steps=4, pieces=4).error is None
    for strategy in ("ddp", "fsdp"):
        for row, other in zip(rows(tmp_path / strategy), rows(tmp_path / "alone"), strict=True):
            close = 1e-5 if row["step"] < 3 else 1e-3  # four gradients are added up in another order, and Adam divides
            assert row == pytest.approx(other, rel=close, abs=close), (strategy, row["step"])


@pytest.mark.slow
def test_half_precision_is_the_same_sharded_and_never_a_routers(splits: Splits, tmp_path: Path) -> None:
    dtypes, _ = on_ranks(learn_in_halves, tmp_path, splits)
    halves = {name for name, dtype in dtypes.items() if dtype == "bfloat16"}
    assert {name.split(".")[0] for name in halves} == {"attn", "mlp"}
    assert {"mlp.experts.w1", "mlp.experts.w2"} < halves
    assert {dtypes[name] for name in ("mlp.router.gate.weight", "norm1.weight", "norm2.bias")} == {"float32"}
    for row, other in zip(rows(tmp_path / "fsdp"), rows(tmp_path / "ddp"), strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-4), row["step"]

    assert train(splits, tmp_path / "alone", pieces=2, steps=4, experts=3).error is None
    for row, other in zip(rows(tmp_path / "three"), rows(tmp_path / "alone"), strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-5), row["step"]
