from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_bench.config.schema import DenseRouterConfig, RouterConfig, SoftRouterConfig, SparseRouterConfig
from moe_bench.monitor.jsonl import JsonlLogger
from moe_bench.monitor.rows import read_rows
from moe_bench.monitor.telemetry import BARS, WANDB_KEYS, RoutingTelemetry, for_wandb, gather, over_layers
from moe_bench.monitor.throughput import StepClock, Throughput
from moe_bench.routing import softmax, token_choice
from moe_bench.routing.stats import Tally

from .tiny import BATCH, fit

TOKEN_CHOICE = SparseRouterConfig(choice="token", noise=0.0)


def train(
    folder: Path, router: RouterConfig = TOKEN_CHOICE, detailed: bool = False, **settings: Any
) -> list[dict[str, float]]:
    clock = StepClock()
    callbacks = [Throughput(clock, BATCH, log_every=2), RoutingTelemetry(folder, 2, BATCH, detailed=detailed)]
    logger = JsonlLogger(folder / "metrics.jsonl", BATCH)
    fit(folder, 6, callbacks=callbacks, loggers=[logger], profiler=clock, router=router, eval_every=4, **settings)
    return read_rows(folder / "metrics.jsonl")[0]


def layers_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]


def routing_of(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """What the logging steps tell about routing."""
    found = [{name: value for name, value in row.items() if name.startswith("routing/")} for row in rows]
    return [row for row in found if row]


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_logging_step_has_one_row_with_all_figures(tmp_path: Path, pieces: int) -> None:
    rows = [row for row in train(tmp_path, pieces=pieces) if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["samples_seen"] for row in rows] == [16, 32, 48]
    for row in rows:
        assert {
            "lr",
            "grad_norm",
            "throughput/images_per_s",
            "routing/dropped_tokens",
            "routing/load/max",
        } <= row.keys()
        assert row["routing/worst/load/max"] >= row["routing/load/max"]
        assert "epoch" not in row


def test_each_layer_is_written_at_each_validation(tmp_path: Path) -> None:
    train(tmp_path)
    layers = layers_of(tmp_path)
    assert [(row["step"], row["layer"]) for row in layers] == [
        (4, "blocks.0"),
        (4, "blocks.1"),
        (6, "blocks.0"),
        (6, "blocks.1"),
    ]
    assert all(isinstance(value, int | float | str) for row in layers for value in row.values())


def test_a_validation_between_logging_steps_is_measured_too(tmp_path: Path) -> None:
    fit(tmp_path, 3, callbacks=[RoutingTelemetry(tmp_path, 100, BATCH)], eval_every=1)
    assert [row["step"] for row in layers_of(tmp_path)] == [1, 1, 2, 2, 3, 3]


def test_detail_adds_the_load_of_each_expert_and_the_histogram_over_the_validation_set(tmp_path: Path) -> None:
    train(tmp_path, detailed=True)
    for row in layers_of(tmp_path):
        assert sum(row["load"]) == pytest.approx(4)
        assert max(row["load"]) == pytest.approx(row["load/max"])
        assert sum(row["experts_per_token/histogram"]) == pytest.approx(1)
        assert row["experts_per_token/histogram"][0] == pytest.approx(row["uncovered"])


def test_detail_compares_the_slots_of_soft_moe_at_validations_only(tmp_path: Path) -> None:
    rows = train(tmp_path, SoftRouterConfig(), detailed=True)
    assert all(0 < row["dispatch_similarity"] <= row["dispatch_similarity/max"] for row in layers_of(tmp_path))
    assert not any("similarity" in name for row in rows for name in row)


@pytest.mark.parametrize("settings", [{"pieces": 2}, {"checkpointed": True}, {"checkpointed": True, "pieces": 2}])
def test_all_micro_batches_count_and_a_layer_computed_again_counts_once(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same groups are routed, so the figures are those of the plain run: and so are the tokens counted."""
    counted: list[float] = []

    def spy(self: RoutingTelemetry, strategy: Any) -> dict[str, Tally]:
        tallies = collect(self, strategy)
        counted.extend(tally.counts["tokens"].item() for tally in tallies.values())
        return tallies

    collect = RoutingTelemetry._collect
    monkeypatch.setattr(RoutingTelemetry, "_collect", spy)
    for folder in ("plain", "other"):
        (tmp_path / folder).mkdir()
    plain, other = train(tmp_path / "plain"), train(tmp_path / "other", **settings)
    for expected, found in zip(routing_of(plain), routing_of(other), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    half = len(counted) // 2
    assert counted[:half] == counted[half:]
    assert set(counted) == {BATCH * 4, 12 * 4}  # four tokens an image, of a step and of the validation set


@pytest.mark.slow
def test_two_ranks_tell_what_one_process_tells(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one = train(tmp_path / "one")
    command = [sys.executable, "-m", "monitor.two_ranks", str(tmp_path / "two")]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, timeout=150, capture_output=True)
    two, broken = read_rows(tmp_path / "two" / "metrics.jsonl")
    assert not broken
    for expected, found in zip(routing_of(one), routing_of(two), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for expected_row, row in zip(layers_of(tmp_path / "one"), layers_of(tmp_path / "two"), strict=True):
        expected_row.pop("time"), row.pop("time")
        assert row.pop("layer") == expected_row.pop("layer")
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("router", [SoftRouterConfig(), SparseRouterConfig()], ids=lambda r: r.name)
def test_every_kind_of_router_reports(tmp_path: Path, router: RouterConfig) -> None:
    assert "routing/load/cv" in train(tmp_path, router)[0]


def test_a_dense_model_reports_no_routing(tmp_path: Path) -> None:
    rows = train(tmp_path, DenseRouterConfig())
    assert rows
    assert not routing_of(rows)
    assert not (tmp_path / "layers.jsonl").exists()


def test_layers_are_averaged_figure_by_figure_and_the_worst_is_told() -> None:
    layers = {"a": {"x": 1.0, "uncovered": 0.1, "logit_max": 5.0}, "b": {"x": 3.0, "uncovered": 0.3}}
    assert over_layers(layers) == {"x": 2.0, "uncovered": 0.2, "logit_max": 5.0, "worst/uncovered": 0.3}


def test_tallies_of_ranks_add_up_and_the_largest_peak_stays() -> None:
    logits = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    gates = softmax(logits)

    def tally(of: slice) -> Tally:
        return token_choice(gates[of], gates[of], k=2, capacity=5).tally(detail=True)

    ranks = [{"a": tally(slice(g, g + 1)), "b": tally(slice(g, g + 1))} for g in (0, 1)]
    other = torch.cat([tally.flat() for tally in ranks[1].values()])
    found = gather(ranks[0], lambda mine: torch.stack([mine, other]))
    for name in ("a", "b"):
        torch.testing.assert_close(found[name].flat(), tally(slice(None)).flat())


def test_wandb_gets_no_more_keys_than_it_bears_and_the_rest_is_told() -> None:
    layers = {f"blocks.{n}": {**{f"x{i}": 1.0 for i in range(20)}, "load": [1.0] * 4} for n in range(30)}
    numbers, bars, left_out = for_wandb(layers)
    assert 0.6 * WANDB_KEYS < len(numbers) + len(bars) <= WANDB_KEYS
    assert {"routing/blocks.0/x3", "routing/blocks.27/x3"} <= numbers.keys()
    assert left_out == "20 of 30 layers"
    assert for_wandb({"blocks.0": {"x": 1.0, "load": [1.0] * (BARS + 1)}}) == (
        {"routing/blocks.0/x": 1.0},
        {},
        f"1 histograms of more than {BARS} bars",
    )
