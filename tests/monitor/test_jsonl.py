from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from moe_bench.monitor.jsonl import JsonlLogger


def test_every_row_has_step_pictures_and_time_and_is_there_at_once(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl", batch=128)
    logger.log_metrics({"train/loss": torch.tensor(0.5), "lr": 1e-3}, step=10)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert list(row) == ["step", "samples_seen", "time", "train/loss", "lr"]
    assert (row["step"], row["samples_seen"], row["train/loss"]) == (10, 1280, 0.5)
    assert row["time"] > 1.7e9


def test_a_figure_that_is_not_a_number_is_null_under_its_name(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl", batch=1)
    logger.log_metrics({"train/loss": float("nan"), "grad_norm": float("inf")}, step=1)
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row["train/loss"] is None
    assert row["grad_norm"] is None


def test_it_appends_to_what_an_earlier_attempt_wrote(tmp_path: Path) -> None:
    for step in (1, 2):
        logger = JsonlLogger(tmp_path / "metrics.jsonl", batch=1)
        logger.log_metrics({"a": 1.0}, step=step)
        logger.finalize("success")
        logger.log_metrics({"b": 1.0}, step=step)  # a probe after the fit
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 1, 2, 2]


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    JsonlLogger(tmp_path / "metrics.jsonl", batch=1).log_metrics({"a": 1.0}, step=1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_row_without_a_step_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a step"):
        JsonlLogger(tmp_path / "metrics.jsonl", batch=1).log_metrics({"a": 1.0})
