"""``moe-bench explain RUN``: pictures beside the run, a table that agrees with its telemetry, and W&B."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from moe_bench import cli as program
from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.explain.maps import class_names
from moe_bench.monitor.units import percent

from .test_routers import QUICK


def trained(router: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["moe-bench", f"router={router}", *QUICK])
    assert program.main() == 0
    (folder,) = Path("runs").glob(f"{router}-*")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_run_gets_its_pictures_and_the_table_says_what_its_telemetry_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("softmax_tc", monkeypatch)
    last = json.loads((run / "routing" / "layers.jsonl").read_text().splitlines()[-1])
    capsys.readouterr()
    assert program.dispatch(["explain", str(run), "--count", "5000", "--wandb"]) == 0
    text = capsys.readouterr().out
    (row,) = (line for line in text.splitlines() if line.startswith("| blocks.1"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == [f"{last['load/cv']:.2f}", percent(last["dropped_wishes"]), percent(last["uncovered"])]
    assert "all 1,000 pictures of digits" in text
    for name in ("patches", "experts", "classes"):
        Image.open(run / "routing" / f"blocks.1-{name}.png").verify()
    assert "W&B: offline" in text
    (kept,) = run.glob("wandb/offline-run-*/files/media/images/routing_maps/blocks.1-patches_*.png")
    assert kept.read_bytes() == (run / "routing" / "blocks.1-patches.png").read_bytes()


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_refused_before_pictures_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = trained("softmax_tc", monkeypatch)
    monkeypatch.setattr("moe_bench.explain.seen.look", pytest.fail)
    with pytest.raises(CheckpointError, match=r"Not a directory\. Choose a place with --out FOLDER"):
        program.dispatch(["explain", str(run), "--out", str(run / "run.json" / "maps")])


@pytest.mark.slow
def test_a_run_without_experts_is_told_that_there_is_nothing_to_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("dense", monkeypatch)
    assert program.dispatch(["explain", str(run)]) == 0
    assert "has no MoE layer: there is nothing to show" in capsys.readouterr().out
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "running"}))
    with pytest.raises(ConfigError, match="still running"):
        program.dispatch(["explain", str(run), "--wandb"])
    with pytest.raises(ConfigError, match="W&B shows png only"):
        program.dispatch(["explain", str(run), "--wandb", "--format", "svg"])


def test_a_word_that_is_no_run_is_told_so() -> None:
    with pytest.raises(ConfigError, match="there is no folder runs/none"):
        program.dispatch(["explain", "runs/none"])


def test_classes_are_called_what_meta_json_calls_them() -> None:
    meta: dict[str, object] = {"classes": [{"index": 1, "name": "goldfish, Carassius\x1b"}, {"index": 9, "id": "far"}]}
    assert class_names(meta, 2) == ["class 0", "goldfish"]
    assert class_names({"classes": "no list"}, 1) == ["class 0"]


def test_the_page_shows_small_pictures_that_exist() -> None:
    page = Path(__file__).parents[2] / "docs" / "maps.md"
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert len(pictures) == 2
    assert all(0 < (page.parent / name).stat().st_size < 150_000 for name in pictures)
