from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from moe_bench.monitor.atomic import read_json, write_json
from moe_bench.monitor.environment import host
from moe_bench.report.collect import collect

from .runs import add_run


def states(root: Path) -> dict[str, str]:
    return {run.router: run.state for run in collect(root).runs}


def test_every_folder_with_a_run_is_read_and_nothing_else(tmp_path: Path) -> None:
    folder = add_run(tmp_path, "soft", capacity=1.5, seed=3)
    add_run(tmp_path, "soft", seed=4).rename(tmp_path / "soft-tiny-c1-digits-s4-0~1")
    for other in ("report", ".hidden", "multirun"):
        (tmp_path / other).mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    found = collect(tmp_path)
    (run,) = found.runs
    assert (run.name, run.router, run.model, run.capacity, run.seed) == (folder.name, "soft", "tiny", 1.5, 3)
    assert (run.state, run.number("val/prec1"), found.archived, found.torn) == ("finished", 0.8, 1, [])
    assert [run.name for run in collect(folder).runs] == [folder.name]


@pytest.mark.parametrize("name", ["run.json", "status.json", "summary.json"])
def test_a_file_cut_at_any_byte_is_listed_and_the_other_runs_are_read(tmp_path: Path, name: str) -> None:
    add_run(tmp_path, "soft")
    torn = add_run(tmp_path, "softmax_ec") / name
    whole = torn.read_bytes().rstrip()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        torn.write_bytes(whole[:length])
        found = collect(tmp_path)
        assert len(found.runs) == 2
        assert found.torn == [torn]


@pytest.mark.parametrize(
    "value", [[], 3, "x", None, {"router": 3, "capacity": "two", "val/prec1": "high", "seed": True}]
)
def test_files_of_another_shape_do_no_harm(tmp_path: Path, value: object) -> None:
    folder = add_run(tmp_path, "soft")
    for name in ("run.json", "status.json", "summary.json"):
        (folder / name).write_text(json.dumps(value))
    (run,) = collect(tmp_path).runs
    assert run.number("val/prec1") is None


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "1e300", "1" + 400 * "0"])
def test_a_figure_that_is_no_finite_number_counts_as_absent(tmp_path: Path, value: str) -> None:
    file = add_run(tmp_path, "soft") / "summary.json"
    file.write_text(file.read_text().replace('"val/prec1": 0.8', f'"val/prec1": {value}'))
    (run,) = collect(tmp_path).runs
    assert (run.state, run.number("val/prec1"), run.number("val/loss")) == ("finished", None, 0.61)


def test_a_summary_is_what_finished_means(tmp_path: Path) -> None:
    (add_run(tmp_path, "soft") / "summary.json").unlink()
    add_run(tmp_path, "dense", state="diverged", reason="loss is nan")
    assert states(tmp_path) == {"soft": "killed", "dense": "diverged"}


def test_a_running_run_is_dead_without_its_process_or_its_heartbeat(tmp_path: Path) -> None:
    def running(router: str, **status: object) -> None:
        path = add_run(tmp_path, router, state="running") / "status.json"
        write_json(path, (read_json(path) or {}) | status)

    running("alive_here", host=host(), pid=os.getpid())
    running("gone_here", host=host(), pid=2**22 + 1)
    running("nonsense", host=host(), pid=-1)
    running("number_used_again", host=host(), pid=os.getpid(), started="2020-01-01T00:00:00Z")
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    running("zombie", host=host(), pid=zombie.pid)
    running("alive_there")
    running("silent_there", heartbeat="2020-01-01T00:00:00Z")
    found = states(tmp_path)
    zombie.wait()
    assert found == {
        "alive_here": "running",
        "gone_here": "killed",
        "nonsense": "killed",
        "number_used_again": "killed",
        "zombie": "killed",
        "alive_there": "running",
        "silent_there": "killed",
    }


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    add_run(tmp_path, "so\x1b[31mft\nx")
    (run,) = collect(tmp_path).runs
    assert run.router == "so [31mft x"


@pytest.mark.slow
def test_five_thousand_runs_are_read_in_five_seconds(tmp_path: Path) -> None:
    first = add_run(tmp_path, "soft")
    files = {name: (first / name).read_bytes() for name in ("run.json", "status.json", "summary.json")}
    for number in range(5_000):
        folder = tmp_path / f"soft-{number}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    started = time.monotonic()
    assert len(collect(tmp_path).runs) == 5_001
    assert time.monotonic() - started < 5
