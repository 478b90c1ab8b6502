"""What ``moe-bench doctor`` finds, on this machine and with faults that are really there."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_bench import cli
from moe_bench.config import load
from moe_bench.doctor import machine, packages, pictures, services
from moe_bench.doctor.finding import NOTE, OFF, OK, Finding, in_time
from moe_bench.monitor.environment import version

CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no account, no cluster."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOE_BENCH_CACHE", str(tmp_path / "home" / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("WANDB_BASE_URL", CLOSED)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Three shards behind http."""
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(3):
        (folder / f"train-{number}.tar").write_bytes(bytes(10))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_in_an_empty_folder_nothing_is_off_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line.split()[1] for line in lines if line.startswith(("ok ", "note "))]
    for subject in (
        "python",
        "packages",
        "runs",
        "cache",
        "train",
        "val",
        "probe",
        "slurm",
        "wandb",
        "torch",
        "memory",
    ):
        assert subject in subjects
    assert "0 off" in lines[-1]
    assert list(Path().iterdir()) == []


def test_what_is_off_is_told_with_a_remedy_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert cli.dispatch(["doctor", "data=shards", "data.path=none", "probe.sets=[]", "runs_dir=file"]) == 2
    out = capsys.readouterr().out
    assert "off   train      the data set folder 'none' does not exist" in out
    assert "off   runs       file cannot be written: Not a directory → mend" in out
    assert "type runs_dir=DIR" in out
    assert "\n3 off" in out


def test_every_tested_version_is_known_and_what_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {one.name for one in packages.requirements()}
    assert {"torch", "lightning", "wandb"} <= needed
    assert "pytest" not in needed
    assert needed <= set(packages.tested_versions())
    installed = {"torch": "2.10.0", "wandb": None, "numpy": "2.99.0"}
    monkeypatch.setattr(packages, "version", lambda name: installed.get(name, version(name)))
    found = {one.what: one for one in packages.packages()}
    assert (found["torch"].mark, found["torch"].found) == (OFF, "2.10.0, but >=2.11 is needed")
    assert (found["wandb"].mark, found["wandb"].found) == (OFF, "not installed")
    assert found["numpy"].line().startswith("note  numpy      2.99.0; tested with ")
    assert found["torch"].remedy == "pip install 'torch>=2.11'"


def test_more_gpus_than_there_are_is_off() -> None:
    asked = load(["runtime.accelerator=gpu", "runtime.devices=999", "recipe.batch=7992"])
    assert packages.devices([asked]).mark == OFF
    assert packages.devices([load([])]).mark == OK


def test_local_and_remote_shards_are_counted(served: str, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    (folder / "val-0.tar").write_bytes(bytes(20))
    here = load(["data=shards", f"data.path={folder}", "probe.sets=[]"])
    assert [one.found for one in pictures.pictures([here])] == [
        f"3 shards from {folder}/train-0.tar: 30 bytes",
        f"1 shard from {folder}/val-0.tar: 20 bytes",
    ]
    there = load(["data=shards", f"data.train='{served}/train-{{0..2}}.tar'", f"data.val={folder}/val-0.tar"])
    train = pictures.pictures([there])[0]
    assert (train.mark, train.found) == (OK, f"3 shards from {served}/train-0.tar: the first and the last answer")


def test_a_missing_remote_shard_is_off_and_a_login_in_its_address_is_not_told(served: str) -> None:
    url = served.replace("://", "://me:canary@")
    config = load(["data=shards", f"data.train='{url}/train-{{0..9}}.tar'", "data.val=none.tar", "probe.sets=[]"])
    train, val = pictures.pictures([config])
    assert (train.mark, val.mark) == (OFF, OFF)
    assert "train-9.tar" in train.found
    assert "canary" not in train.line()


def test_a_run_of_several_data_sets_has_a_line_for_each_once() -> None:
    configs = [load([f"seed={seed}"]) for seed in range(3)]
    assert [one.what for one in pictures.pictures(configs)] == ["train", "val", "probe"]


def test_what_does_not_answer_is_off_after_a_while() -> None:
    never = threading.Event()
    found = in_time("disk", lambda: Finding(OK, "disk", str(never.wait(20))), limit_s=0.05)
    assert (found.mark, found.what) == (OFF, "disk")
    never.set()


def test_little_room_is_worth_knowing_and_none_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, mark in (("LITTLE_ROOM", NOTE), ("NO_ROOM", OFF)):
        monkeypatch.setattr(machine, limit, 1e18)
        assert [one.mark for one in machine.folders([load([])])] == [mark, mark]


def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch, sinfo: str) -> None:
    """Commands of SLURM that answer with ``sinfo``."""
    for name in ("sinfo", "sbatch"):
        (folder / name).write_text(f"#!/bin/sh\n{sinfo}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_a_slurm_that_does_not_answer_is_told_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ANSWER_S", 0.2)
    cluster(tmp_path, monkeypatch, "exec sleep 30")
    assert services.slurm(wanted=False).found == "sinfo fails: no answer within 0.2 s"


def test_slurm_is_asked_where_it_is_and_missed_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (services.slurm(wanted=False).mark, services.slurm(wanted=True).mark) == (OK, OFF)
    cluster(tmp_path, monkeypatch, "echo 'gpu up 4 idle'")
    assert services.slurm(wanted=True) == Finding(OK, "slurm", "partition, state, nodes: gpu up 4 idle")
    cluster(tmp_path, monkeypatch, "echo 'slurm_load_partitions: no contact' >&2; exit 1")
    assert (services.slurm(wanted=False).mark, services.slurm(wanted=True).mark) == (NOTE, OFF)
    assert "no contact" in services.slurm(wanted=True).found
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert services.slurm(wanted=True).found.startswith("within job 7")


def test_wandb_says_why_it_would_be_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.wandb(load([])).found == "offline: no key for 127.0.0.1; 127.0.0.1 does not answer"
    assert services.wandb(load(["logger=none"])).mark == OK
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    found = services.wandb(load([]))
    assert (found.mark, found.found) == (NOTE, "offline: 127.0.0.1 does not answer")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert services.wandb(load([])).mark == OK


def test_runs_kept_offline_are_counted_with_the_command_that_uploads_them(tmp_path: Path) -> None:
    assert services.unsynced(tmp_path / "runs") == []
    folder = tmp_path / "runs" / "a" / "wandb" / "offline-run-20260101_000000-a"
    folder.mkdir(parents=True)
    (folder / "run-a.wandb").write_bytes(bytes(100))
    (found,) = services.unsynced(tmp_path / "runs")
    assert (found.mark, found.remedy) == (NOTE, f"moe-bench sync {tmp_path / 'runs'}")
    (folder / "run-a.wandb.synced").touch()
    assert services.unsynced(tmp_path / "runs") == []
