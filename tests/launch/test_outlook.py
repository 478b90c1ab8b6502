"""What is told before a sweep starts: how far its runs are, how long they may take, what they leave on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_bench.config import load, run_id, science
from moe_bench.config.sweep import plan
from moe_bench.cores import cores
from moe_bench.launch import pace, sweep
from moe_bench.launch.cells import Cell, find_cells
from moe_bench.launch.outlook import checkpoint_bytes, outlook
from moe_bench.launch.share import THREADS


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pace, "BUDGET_S", 0.0)  # but for those that time something


def grid(*words: str) -> list[Cell]:
    return find_cells(plan(["router=soft", *words], multirun=True))


def leave(words: list[str], file: str, content: dict[str, object]) -> None:
    """A run folder with such a file."""
    cfg = load(words)
    folder = Path("runs", run_id(cfg))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"science": science(cfg)}))
    (folder / file).write_text(json.dumps(content))


FINISHED = {"steps": 600, "device": "CPU", "world_size": 1}


def test_time_is_unknown_with_the_reason_where_nothing_is_finished_and_nothing_can_be_timed() -> None:
    assert "time: unknown, since no run like these is finished and 0 s were too short" in outlook(grid("seed=1,2"), 1)
    assert "this machine is not the one that trains" in outlook(grid("seed=1,2"), 1, elsewhere=True)


def test_a_plan_of_very_many_runs_does_not_wait_for_a_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MOST_RUNS", 2)
    monkeypatch.setattr(pace, "_ask", lambda configs, share: [0.5])
    assert "2 runs by timing a few pieces of a step now)" in outlook(grid("seed=1,2"), 1)
    assert "more than 2 runs are not timed" in outlook(grid("seed=1,2,3"), 1)


def test_what_was_not_timed_follows_by_its_flops_from_the_same_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three kinds of which two were timed in time, the cheapest first."""
    cells = grid("router=soft,softmax_ec", "model.width=64,128", "recipe.steps=10", "recipe.batch=8")
    monkeypatch.setattr(pace, "_ask", lambda configs, share: [0.5, 0.25])
    seconds, measured = pace.image_seconds([cell.config for cell in cells], {})
    assert measured == 2
    assert seconds is not None
    narrow = {cell.config.router.name: i for i, cell in enumerate(cells) if cell.config.model.width == 64}
    assert sorted(seconds[i] for i in narrow.values()) == [0.25, 0.5]
    for i, cell in enumerate(cells):
        like = narrow[cell.config.router.name]
        ratio = pace.training_flops(cell.config) / pace.training_flops(cells[like].config)
        assert seconds[i] == pytest.approx(seconds[like] * ratio)


def test_a_time_says_what_it_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(["router=soft", "seed=1"], "summary.json", {**FINISHED, "time/train_s": 600.0})
    monkeypatch.setattr(pace, "_ask", lambda configs, share: [0.01 for _ in configs])
    told = outlook(grid("seed=1,2", "capacity=1,2"), 1)  # 600 s, and twice 600 steps of 128 images
    assert (
        "about 36 min of training (1 run by finished runs like these on CPU, 2 runs by timing a few pieces of" in told
    )


def test_what_follows_by_flops_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_ask", lambda configs, share: [0.5])
    told = outlook(grid("seed=1,2", "model.width=64,128"), 1)
    assert "(4 runs by timing a few pieces of a step now for 1 of 2 kinds, the others by their FLOPs)" in told


def test_pieces_are_timed_with_the_threads_that_a_run_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(pace, "_ask", lambda configs, share: given.append(dict(share)) or [0.5])
    monkeypatch.delenv(THREADS, raising=False)
    cells = grid("seed=1,2", "runtime.accelerator=cpu")
    for jobs in (1, 2, 5):
        outlook(cells, jobs)
    half = {THREADS: str(max(1, cores() // 2))}
    assert given == [{}, half, half]  # two runs are never five at once


@pytest.mark.slow
def test_a_process_beside_the_sweep_times_real_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "BUDGET_S", 120.0)
    found, measured = pace.image_seconds([cell.config for cell in grid("router=soft,dense", "seed=1,2")][::2], {})
    assert measured == 2
    assert found is not None
    assert all(1e-6 < seconds < 10 for seconds in found)


def test_time_follows_from_finished_runs_and_from_what_is_left() -> None:
    leave(["router=soft", "seed=1"], "summary.json", {**FINISHED, "time/train_s": 1200.0})  # 2 s a step
    leave(["router=soft", "seed=2"], "status.json", {"state": "interrupted", "step": 300})
    told = outlook(grid("seed=1,2,3"), 1)
    assert "3 runs: 1 finished, 1 begun, 1 new" in told
    assert "about 30 min of training" in told  # 300 + 600 steps
    assert "15 min if as many at once" in outlook(grid("seed=1,2,3"), 2)
    assert "not counted: 2 runs" in outlook(grid("seed=1,3", "capacity=1,2"), 1)


def test_disk_is_what_the_checkpoints_hold() -> None:
    one, several = grid("seed=1")[0], grid("seed=1", "recipe.checkpoint_every=100")[0]
    assert checkpoint_bytes(several.config) == 2 * checkpoint_bytes(one.config)
    plain = grid("seed=1", "recipe.optimizer=sgd")[0]
    assert 3 * checkpoint_bytes(plain.config) == 2 * checkpoint_bytes(one.config)
    assert "disk: about" in outlook([one], 1)


def test_a_dry_run_lists_every_run_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    leave(["router=soft", "seed=1"], "summary.json", FINISHED)
    assert sweep.run(plan(["router=soft", "seed=1,2"], multirun=True), dry_run=True) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["1", "seed=1", "finished"]
    assert second.split() == ["2", "seed=2", "new", f"runs/{run_id(load(['router=soft', 'seed=2']))}"]
    assert len(list(Path("runs").iterdir())) == 1


def test_a_dry_run_of_one_run_is_a_list_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.run(plan(["router=soft"]), dry_run=True) == 0
    assert capsys.readouterr().out.startswith("     1  soft-tiny-c1-digits-s0-")
