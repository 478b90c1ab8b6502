from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from moe_bench.config.schema import RouterConfig, SparseRouterConfig
from moe_bench.monitor.collapse import WINDOW, CollapseWatch, busiest
from moe_bench.monitor.telemetry import RoutingTelemetry
from moe_bench.routing import SoftRouting, expert_choice, token_choice
from moe_bench.routing.stats import Tally

from .tiny import fit


def tally_of(share: float, k: int = 1) -> Tally:
    """Of 100 tokens and 8 experts; ``share`` of the tokens like expert 3 best and expert 4 next, the rest not 3."""
    gates = torch.rand(1, 100, 8, generator=torch.Generator().manual_seed(0))
    gates[0, : round(100 * share), 3] = 3.0
    gates[0, : round(100 * share), 4] = 2.0
    gates[0, round(100 * share) :, 3] = 0.0
    return token_choice(gates, gates, k=k, capacity=20).tally()


def said_of(*steps: dict[str, Tally]) -> list[str]:
    said: list[str] = []
    watch = CollapseWatch(said.append)
    for layers in steps:
        watch.look(layers)
    return said


def test_the_worst_layer_is_named_with_its_expert_its_share_and_what_to_try() -> None:
    (line,) = said_of({"blocks.1": tally_of(0.93), "blocks.3": tally_of(0.98), "blocks.5": tally_of(0.4)})
    assert line.startswith("routing collapsed in blocks.3 (and 1 more): 98.0 % of the tokens go to expert 3")
    assert "12.5 % would be fair" in line
    assert "router.importance" in line
    assert "router=softmax_ec" in line


@pytest.mark.parametrize(
    "healthy",
    [
        tally_of(0.8),
        token_choice(torch.ones(1, 8, 2), torch.ones(1, 8, 2), k=2, capacity=8).tally(),  # everyone asks for everyone
        expert_choice(torch.ones(1, 8, 2), torch.ones(1, 8, 2), capacity=8).tally(),
    ],
)
def test_a_busy_expert_is_no_collapse(healthy: Tally) -> None:
    assert said_of({"blocks.1": healthy}) == []


def test_two_experts_that_take_all_first_and_second_choices_are_a_collapse() -> None:
    assert busiest(tally_of(1.0, k=2)) == pytest.approx((1.0, 0.25, 3))
    assert len(said_of({"blocks.1": tally_of(1.0, k=2)})) == 1


def test_soft_moe_collapses_in_what_tokens_read() -> None:
    share = torch.tensor([0.95, 0.03, 0.01, 0.01]).view(1, 1, 4, 1).expand(1, 6, 4, 1)
    (line,) = said_of({"blocks.1": SoftRouting(torch.full((1, 6, 4, 1), 1 / 6), share).tally()})
    assert "95.0 % of the tokens go to expert 0" in line
    assert "router.normalize=true" in line
    assert "importance" not in line


def test_it_is_told_once_in_a_window() -> None:
    bad, good = {"blocks.1": tally_of(1.0)}, {"blocks.1": tally_of(0.2)}
    assert len(said_of(*[bad] * WINDOW)) == 1
    assert len(said_of(*[bad] * (WINDOW + 1))) == 2
    assert len(said_of(bad, *[good] * (WINDOW - 1), bad)) == 2


class Bias(Callback):
    """Turns the gate of a layer so that every token likes one expert best, whatever it is."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        block = pl_module.model.blocks[1]
        with torch.no_grad():
            block.norm2.weight.zero_()
            block.norm2.bias.fill_(1.0)
            block.mlp.router.gate.weight.zero_()
            block.mlp.router.gate.weight[2] = 1.0


@pytest.mark.parametrize(
    ("router", "lines"), [(SparseRouterConfig(choice="token"), 1), (SparseRouterConfig(choice="expert"), 0)]
)
def test_a_run_whose_gate_collapses_says_so_and_goes_on(tmp_path: Path, router: RouterConfig, lines: int) -> None:
    said: list[str] = []
    telemetry = RoutingTelemetry(tmp_path, 1, 8, say=said.append)
    trainer = fit(tmp_path, 6, callbacks=[Bias(), telemetry], router=router)
    assert trainer.global_step == 6
    assert len(said) == lines
    assert all("collapsed in blocks.1: 100.0 % of the tokens go to expert 2" in line for line in said)
