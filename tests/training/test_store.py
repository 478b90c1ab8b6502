"""Checkpoints: whole or not there, checked before they are read, read without running code. Real files, real faults."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pickle
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_bench.errors import CheckpointError, SecurityError
from moe_bench.training import store


def state(step: int = 1) -> dict[str, Any]:
    return {"state_dict": {"model.a": torch.full((3, 2), float(step)), "model.b": torch.arange(4)}, "global_step": step}


def save(checkpoints: Path, *steps: int) -> list[Path]:
    folders = [store.step_folder(checkpoints, step) for step in steps]
    for step, folder in zip(steps, folders):
        store.write(state(step), folder, {"step": step, "samples_seen": 8 * step})
    return folders


def test_what_is_written_is_read_back_with_its_manifest(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 12)
    assert folder.name == "step-00000012"
    loaded = store.load(folder)
    assert torch.equal(loaded["state_dict"]["model.a"], state(12)["state_dict"]["model.a"])
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "state.ckpt").read_bytes()
    assert manifest == {
        "schema": 1,
        "step": 12,
        "samples_seen": 96,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert (tmp_path / "last").read_text() == "step-00000012\n"
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000012"]


def test_latest_goes_by_the_step_in_the_manifest_not_by_file_times(tmp_path: Path) -> None:
    old, new = save(tmp_path, 5, 100)
    os.utime(new, (0, 0))
    found = store.latest(tmp_path)
    assert found is not None
    assert (found.path, found.step) == (new, 100)
    assert old.exists()


def test_a_folder_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert store.latest(tmp_path) is None
    assert store.latest(tmp_path / "missing") is None


def truncate(folder: Path) -> None:
    os.truncate(folder / "state.ckpt", 100)


def empty(folder: Path) -> None:
    os.truncate(folder / "state.ckpt", 0)


def flip(folder: Path) -> None:
    data = bytearray((folder / "state.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.ckpt").write_bytes(data)


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 10)


def lose_state(folder: Path) -> None:
    (folder / "state.ckpt").unlink()


def other_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))


FAULTS = [truncate, empty, flip, lose_manifest, tear_manifest, lose_state, other_format]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_damaged_checkpoint_is_passed_over_and_both_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Any
) -> None:
    good, bad = save(tmp_path, 1, 2)
    fault(bad)
    with caplog.at_level(logging.WARNING):
        found = store.latest(tmp_path)
    assert found is not None
    assert found.path == good
    assert str(bad) in caplog.text
    assert str(good) in caplog.text
    with pytest.raises(CheckpointError):
        store.load(bad)


def test_a_checkpoint_that_is_found_and_then_loaded_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = save(tmp_path, 3)
    hashed: list[Any] = []
    real = store.sha256_of
    monkeypatch.setattr(store, "sha256_of", lambda file: hashed.append(file.name) or real(file))
    found = store.latest(tmp_path)
    assert found is not None
    store.load(found.path)
    assert hashed == [str(folder / "state.ckpt")]
    flip(folder)
    with pytest.raises(CheckpointError, match="sha256"):
        store.load(found.path)


def test_row_16_without_fallback_a_damaged_newest_checkpoint_is_refused(tmp_path: Path) -> None:
    _, newest = save(tmp_path, 1, 2)
    assert store.latest(tmp_path, fallback=False) == store.latest(tmp_path)
    empty(newest)
    with pytest.raises(CheckpointError, match=r"step-00000002 .*resume=newest goes on from no other"):
        store.latest(tmp_path, fallback=False)


def test_when_all_are_damaged_nothing_is_guessed(tmp_path: Path) -> None:
    for folder in save(tmp_path, 1, 2):
        flip(folder)
    with pytest.raises(CheckpointError, match="every checkpoint"):
        store.latest(tmp_path)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 3)
    flip(folder)
    save(tmp_path, 3)
    assert store.damage(folder) is None
    written = (folder / "state.ckpt").stat().st_mtime_ns
    save(tmp_path, 3)
    assert (folder / "state.ckpt").stat().st_mtime_ns == written  # a whole one is left alone


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_leftover(tmp_path: Path) -> None:
    save(tmp_path, 1)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        big = {"state_dict": {"a": torch.zeros(100_000)}, "global_step": 2}
        with pytest.raises(CheckpointError, match=r"could not be written.*Earlier checkpoints are intact") as caught:
            store.write(big, store.step_folder(tmp_path, 2), {"step": 2})
        assert re.search(r"takes about 400\.0 kB, and \d+\.\d [GT]B are free there", str(caught.value))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000001"]
    found = store.latest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in its place")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path / "checkpoints", 1)


def test_a_run_folder_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        save(tmp_path / "deleted" / "checkpoints", 1)
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing_the_earlier_checkpoint_is_found_and_the_leftover_removed(tmp_path: Path) -> None:
    """A real kill -9 of a process that is half-way through a save."""
    (earlier,) = save(tmp_path, 1)
    child = os.fork()
    if child == 0:

        class Killer:
            def __reduce__(self) -> Any:  # called by torch.save in the middle of the state
                os.kill(os.getpid(), signal.SIGKILL)
                return int, ()

        store.write({"a": torch.zeros(1000), "b": Killer()}, store.step_folder(tmp_path, 2), {"step": 2})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    found = store.latest(tmp_path)
    assert found is not None
    assert found.path == earlier
    store.clean(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000001"]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    store.prune(tmp_path, newest=4, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000003", "step-00000004"]


def test_pruning_never_trades_the_checkpoint_just_written_for_a_damaged_later_one(tmp_path: Path) -> None:
    """A run fell back from a damaged step 9 to step 3 and now saves step 5."""
    later, _, _ = save(tmp_path, 9, 3, 5)
    flip(later)
    store.prune(tmp_path, newest=5, keep=1)
    found = store.latest(tmp_path)
    assert found is not None
    assert found.step == 5


def test_a_checkpoint_that_cannot_be_deleted_is_reported_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 2)

    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EBUSY, "in use", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    store.prune(tmp_path, newest=2, keep=1)
    assert "training goes on" in caplog.text
    found = store.latest(tmp_path)
    assert found is not None
    assert found.step == 2


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def forge(checkpoints: Path, data: bytes) -> Path:
    """A checkpoint of an attacker, who can write a manifest as well as we."""
    folder = store.step_folder(checkpoints, 1)
    folder.mkdir(parents=True)
    (folder / "state.ckpt").write_bytes(data)
    manifest = {"schema": 1, "step": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("how", ["zip", "plain pickle", "legacy"])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, how: str) -> None:
    marker = tmp_path / "marker"
    evil = {"state_dict": Payload(marker)}
    if how == "plain pickle":
        data = pickle.dumps(evil)
    else:
        path = tmp_path / "evil.ckpt"
        torch.save(evil, path, _use_new_zipfile_serialization=how == "zip")
        data = path.read_bytes()
    forge(tmp_path / "checkpoints", data)
    for load in (store.load_weights, lambda run: store.load(run / "checkpoints" / "step-00000001")):
        with pytest.raises(SecurityError, match=r"state\.ckpt"):
            load(tmp_path)
    assert not marker.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False) if how != "plain pickle" else pickle.loads(data)
    assert marker.exists()  # the payload works; it was the refusal that kept it from running


def test_noise_is_not_a_checkpoint(tmp_path: Path) -> None:
    forge(tmp_path / "checkpoints", b"\x00" * 1000)
    with pytest.raises(SecurityError, match="not in the format"):
        store.load_weights(tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/run", "https://example.org/run", "s3://bucket/run"])
def test_urls_are_refused(url: str) -> None:
    for load in (store.load, store.load_weights):
        with pytest.raises(SecurityError, match="is a URL"):
            load(url)


@pytest.mark.parametrize("where", [".", "checkpoints", "checkpoints/step-00000002"])
def test_weights_are_found_from_the_run_folder_or_below_under_the_models_own_names(tmp_path: Path, where: str) -> None:
    save(tmp_path / "checkpoints", 1, 2)
    weights, manifest = store.load_weights(tmp_path / where)
    assert sorted(weights) == ["a", "b"]
    assert weights["a"].unique().tolist() == [2.0]
    assert manifest["step"] == 2


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        store.load_weights(tmp_path)


def test_another_models_checkpoint_is_refused_with_the_first_differences() -> None:
    ours = {f"w{i}": torch.zeros(2, i + 1) for i in range(8)}
    theirs = {f"w{i}": torch.zeros(3, i + 1) for i in range(7)} | {"extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        store.check_fits(ours, theirs)
    told = str(caught.value)
    assert "9 parameters differ" in told
    assert "w0: model (2, 1), checkpoint (3, 1)" in told
    assert "… and 4 more" in told
    store.check_fits(ours, ours)


def test_saving_and_rotating_leaves_no_file_open_and_no_folder_behind(tmp_path: Path) -> None:
    save(tmp_path, 0)
    before = len(os.listdir("/proc/self/fd"))
    for step in range(1, 30):
        save(tmp_path, step)
        store.prune(tmp_path, step, keep=2)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(os.listdir(tmp_path)) == 3
