"""Faults of data, by the row of each in the table of faults: real files, and the command line for its exit code."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_bench import cli
from moe_bench.data.index import open_split
from moe_bench.data.plan import Plan
from tests.data.shards import picture, write_damaged

TINY = [
    "data=shards", "probe=none", "logger=none", "recipe.steps=10", "recipe.batch=8", "recipe.checkpoint_every=3",
    "capacity.group_images=4", "model.image_size=8", "model.patch=4", "model.width=16", "model.depth=2",
    "model.heads=2", "model.mlp=16", "model.experts=4", "model.moe_blocks=[1]", "runtime.accelerator=cpu",
    "runtime.workers=0", "runtime.log_every=1",
]  # fmt: skip
SKIP = ["data.on_error=skip", "data.skip_limit=0.2"]
BAD = {2: b"", 3: b"junk", 12: picture(12)[:-30]}
VAL_BAD = {1: b"", 5: b"junk"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOE_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def moe_bench(*words: str) -> int:
    """The exit code of ``moe-bench WORDS``, in this process."""
    before, sys.argv = sys.argv, ["moe-bench", *words]
    try:
        return cli.main()
    finally:
        sys.argv = before


def run_folder(root: Path) -> Path:
    (run,) = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return run


def summary(root: Path) -> dict[str, Any]:
    return json.loads((run_folder(root) / "summary.json").read_text())


def rows(root: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock says."""
    found = (json.loads(line) for line in (run_folder(root) / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in row.items() if k != "time" and not k.startswith(("throughput/", "memory/"))} for row in found
    ]


def data_set(folder: Path, bad: dict[int, bytes], val_bad: dict[int, bytes]) -> str:
    """25 training pictures and 9 of validation, in shards of 4."""
    write_damaged(folder, 25, bad)
    write_damaged(folder, 9, val_bad, split="val")
    return f"data.path={folder}"


def expected(folder: Path, places: int) -> Counter[str]:
    """What 10 steps of 8 must have met, counted place by place."""
    index = open_split([str(path) for path in sorted(folder.glob("train-*"))], progress=False)
    due = Plan(index.counts, 0, 65536).pictures(np.arange(places)).tolist()
    return Counter(index.key(one) for one in due)


def test_row_31_a_bad_picture_is_exit_code_3_and_named_and_the_same_run_goes_on_without_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data_set(here / "set", BAD, {})
    assert moe_bench(*TINY, path) == 3
    told = capsys.readouterr().err
    assert ".tar:k" in told
    assert "data.on_error=skip" in told
    assert moe_bench(*TINY, path, *SKIP) == 0
    assert summary(here / "runs")["steps"] == 10


def test_row_31_skipped_pictures_are_counted_by_shard_and_cause_and_said_at_the_end(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moe_bench(*TINY, data_set(here / "set", BAD, VAL_BAD), *SKIP, "data.skip_limit=0.25") == 0
    printed = " ".join(capsys.readouterr().out.split())
    told, due = summary(here / "runs"), expected(here / "set", 80)
    assert (told["data/seen"], told["data/epochs"], told["data/distinct"]) == (80, 3.2, 22)
    assert told["data/repeated"] == 80 - 22
    assert told["data/skipped"] == due["k2"] + due["k3"] + due["k12"]
    assert told["data/skipped/empty"] == due["k2"]
    assert told["data/skipped/damaged"] == due["k3"] + due["k12"]
    assert told["data/bad"] == 3
    assert told["data/bad/train-000000.tar/empty"] == told["data/bad/train-000000.tar/damaged"] == 1
    assert told["data/bad/train-000003.tar/damaged"] == 1
    assert told["val/count"] == 9
    assert told["val/bad"] == 2
    assert f"{told['data/skipped']} skipped ({due['k2']} empty, {due['k3'] + due['k12']} damaged; 3 bad" in printed
    assert "train-000003.tar:k12 (damaged); k13 takes its place in every epoch" in printed
    assert "2 of 9 validation pictures cannot be decoded and count as wrong answers" in printed
    epochs = [row for row in rows(here / "runs") if "data/seen" in row]
    assert [row["step"] for row in epochs if row["data/epochs"] // 1 > (row["step"] - 1) * 8 // 25] == [4, 7, 10]
    assert sum(row.get("data/bad/train-000003.tar/damaged", 0) for row in epochs) == 1


def test_row_31_bad_pictures_change_neither_the_number_of_steps_nor_the_order_after_them(here: Path) -> None:
    whole, broken = here / "whole" / "set", here / "broken" / "set"
    for folder, bad in ((whole, {}), (broken, {7: b"junk"})):
        assert moe_bench(*TINY, data_set(folder, bad, {}), *SKIP, f"runs_dir={folder.parent / 'runs'}") == 0
    first, second = rows(whole.parent / "runs"), rows(broken.parent / "runs")
    index = open_split([str(path) for path in sorted(whole.glob("train-*"))], progress=False)
    due = Plan(index.counts, 0, 65536).pictures(np.arange(80)).tolist()
    met = due.index(7) // 8 + 1  # the step that met it
    until = [[row for row in one if row["step"] < met and "train/loss" in row] for one in (first, second)]
    assert until[0] == until[1]
    assert [row["step"] for row in second if "train/loss" in row] == list(range(1, 11))


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_row_31_a_resumed_run_with_skipped_pictures_equals_the_unbroken_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    words = [*TINY, data_set(here / "set", BAD, {}), *SKIP, f"runtime.workers={workers}"]
    assert moe_bench(*words, "runs_dir=a") == 0
    with monkeypatch.context() as patch:
        patch.setattr("moe_bench.monitor.heartbeat.Heartbeat.on_train_batch_end", _stop_at_step_5)
        assert moe_bench(*words, "runs_dir=b") == 1
    assert moe_bench(*words, "runs_dir=b") == 0
    assert rows(here / "b") == rows(here / "a")
    ours, theirs = summary(here / "b"), summary(here / "a")
    assert {k: v for k, v in ours.items() if k.startswith(("data/", "val/"))} == {
        k: v for k, v in theirs.items() if k.startswith(("data/", "val/"))
    }


def _stop_at_step_5(self: Any, trainer: Any, *args: Any) -> None:
    if trainer.global_step == 5:
        raise RuntimeError("the test's own fault")


@pytest.mark.parametrize(("bad", "val_bad", "says"), [(BAD, {}, "3 of 25"), ({}, VAL_BAD, "1 of 9")])
def test_row_31_beyond_the_limit_is_exit_code_3_with_the_numbers(
    here: Path, capsys: pytest.CaptureFixture[str], bad: dict[int, bytes], val_bad: dict[int, bytes], says: str
) -> None:
    words = [*TINY, data_set(here / "set", bad, val_bad), "data.on_error=skip"]
    assert moe_bench(*words, "data.skip_limit=0.1") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"{says} pictures cannot be decoded and data.skip_limit=0.1 allows" in told
    assert json.loads((run_folder(here / "runs") / "status.json").read_text())["exit_code"] == 3
