from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moe_bench.config.schema import DenseRouterConfig, RouterConfig, SoftRouterConfig, SparseRouterConfig
from moe_bench.monitor.jsonl import JsonlLogger
from moe_bench.monitor.rows import read_rows
from moe_bench.monitor.telemetry import RoutingTelemetry, over_layers, to_host
from moe_bench.monitor.throughput import StepClock, Throughput

from .tiny import BATCH, fit


def train(folder: Path, router: RouterConfig | None = None, pieces: int = 1) -> list[dict[str, float]]:
    clock = StepClock()
    callbacks = [Throughput(clock, BATCH, log_every=2), RoutingTelemetry(folder, 2, BATCH)]
    logger = JsonlLogger(folder / "metrics.jsonl", BATCH)
    fit(folder, 6, callbacks=callbacks, loggers=[logger], profiler=clock, router=router, pieces=pieces, eval_every=4)
    return read_rows(folder / "metrics.jsonl")[0]


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_logging_step_has_one_row_with_all_figures(tmp_path: Path, pieces: int) -> None:
    rows = [row for row in train(tmp_path, pieces=pieces) if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["samples_seen"] for row in rows] == [16, 32, 48]
    for row in rows:
        assert {"lr", "grad_norm", "throughput/images_per_s", "routing/dropped", "routing/load/max"} <= row.keys()
        assert "epoch" not in row


def test_each_layer_is_written_at_each_validation(tmp_path: Path) -> None:
    rows = train(tmp_path)
    layers = [json.loads(line) for line in (tmp_path / "layers.jsonl").read_text().splitlines()]
    assert [(row["step"], row["layer"]) for row in layers] == [
        (4, "blocks.0"),
        (4, "blocks.1"),
        (6, "blocks.0"),
        (6, "blocks.1"),
    ]
    last = next(row for row in rows if row["step"] == 6 and "train/loss" in row)
    entropy = sum(row["gate_entropy"] for row in layers[-2:]) / 2
    assert last["routing/gate_entropy"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize("router", [SoftRouterConfig(), SparseRouterConfig(choice="token")], ids=lambda r: r.name)
def test_every_kind_of_router_reports(tmp_path: Path, router: RouterConfig) -> None:
    assert "routing/load/cv" in train(tmp_path, router)[0]


def test_a_dense_model_reports_no_routing(tmp_path: Path) -> None:
    rows = train(tmp_path, DenseRouterConfig())
    assert rows
    assert not [name for row in rows for name in row if name.startswith("routing/")]
    assert not (tmp_path / "layers.jsonl").exists()


def test_layers_are_averaged_stat_by_stat() -> None:
    stats = to_host({"a": {"x": torch.tensor(1.0), "y": torch.tensor(5)}, "b": {"x": torch.tensor(3.0)}})
    assert over_layers(stats) == {"x": 2.0, "y": 5.0}
    assert to_host({}) == {}
