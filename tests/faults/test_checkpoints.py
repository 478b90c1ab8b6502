"""B. Checkpoints that are torn, refused by the disk or cut short by kill -9. Rows 10 to 22 of the fault matrix.

What the store does with each kind of damage, byte for byte, is in tests/training/test_store.py; that a stopped run goes
on bit for bit (rows 9 and 11) in tests/training/test_resume.py.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning.pytorch import Callback
from miniature import Ran, Run

from faults.command import TINY, moe_bench, only_run, read, rows
from moe_bench import config
from moe_bench.config.groups import find_groups
from moe_bench.errors import CheckpointError
from moe_bench.training import background, checkpoint, durable, store
from moe_bench.training.background import Background, copied

ROUTERS = sorted(find_groups(None)["router"])


class Gone(BaseException):
    """What kill -9 does to the files: nothing is written any more."""


class GoneAt(Callback):
    """The process is gone before step ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Gone


def weights(ran: Ran) -> dict[str, torch.Tensor]:
    assert ran.error is None, ran.error
    (optimizer,) = ran.trainer.optimizers
    moments = {f"{n}/{k}": v for n, found in optimizer.state_dict()["state"].items() for k, v in found.items()}
    return {**ran.module.state_dict(), **moments}


def assert_equal(one: Ran, other: Ran) -> None:
    """To the last bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("router", ROUTERS)
def test_row_10_every_router_that_there_is_goes_on_bit_for_bit(run: Run, tmp_path: Path, router: str) -> None:
    settings = {"router": config.load([f"router={router}"]).router, "eval_every": 3, "checkpoint_every": 2}
    whole = run("whole", **settings)
    assert isinstance(run("broken", **settings, last=[GoneAt(5)]).error, Gone)
    assert_equal(run("broken", **settings), whole)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_row_11_killed_at_five_random_steps_nothing_drifts(run: Run, tmp_path: Path) -> None:
    """Steps of the same epoch of 5.5 steps, the last of one and the first of the next, and the same step twice."""
    whole = run("whole", steps=24, checkpoint_every=2, pieces=2)
    drawn = random.Random(11)
    for step in [*sorted(drawn.sample(range(1, 24), 3)), 5, 6]:
        run("broken", steps=24, checkpoint_every=2, pieces=2, last=[GoneAt(step)])
    assert_equal(run("broken", steps=24, checkpoint_every=2, pieces=2), whole)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_row_14_a_changed_setting_that_is_no_science_is_accepted_and_recorded(here: Path) -> None:
    steps = ["recipe.steps=4", "recipe.checkpoint_every=1"]
    assert moe_bench(*TINY, *steps) == 0
    run = only_run(here)
    (run / "summary.json").unlink()  # it never came so far
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    assert moe_bench(*TINY, *steps, "runtime.keep_checkpoints=3") == 0
    attempts = read(run / "run.json")["attempts"]
    assert [attempt["step"] for attempt in attempts] == [0, 3]
    assert "runtime.keep_checkpoints=3" in attempts[1]["overrides"]
    assert "runtime.keep_checkpoints=3" not in attempts[0]["overrides"]


def test_row_15_killed_at_any_byte_of_a_save_the_earlier_checkpoint_is_found(tmp_path: Path) -> None:
    """A real kill -9, at twenty places of the file."""
    state = {"state_dict": {f"model.{i}": torch.full((40,), float(i)) for i in range(20)}, "global_step": 1}
    earlier = store.step_folder(tmp_path, 1)
    store.write(state, earlier, {"step": 1})
    size = (earlier / "state.ckpt").stat().st_size
    for place in random.Random(15).sample(range(size), 20):
        child = os.fork()
        if child == 0:
            real = durable.HashedFile.write

            def write(self: durable.HashedFile, data: bytes, place: int = place, real: Any = real) -> int:
                room = place - self.size
                if room < len(data):
                    real(self, bytes(data)[:room])
                    self.file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return int(real(self, data))

            durable.HashedFile.write = write  # type: ignore[method-assign]
            store.write(state, store.step_folder(tmp_path, 2), {"step": 2})
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        (half,) = tmp_path.glob(".*.tmp")
        assert (half / "state.ckpt").stat().st_size == place
        found = store.latest(tmp_path)
        assert found is not None
        assert found.path == earlier
        store.clean(tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["last", "step-00000001"]


def test_row_16_a_run_goes_on_from_the_checkpoint_before_the_torn_one(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run("whole", checkpoint_every=2)
    run("broken", checkpoint_every=2, last=[GoneAt(7)])
    torn = store.step_folder(tmp_path / "broken" / "checkpoints", 6)
    data = bytearray((torn / "state.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (torn / "state.ckpt").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        resumed = run("broken", checkpoint_every=2)
    assert "step-00000006 (sha256 of state.ckpt" in caplog.text
    assert "step-00000004 instead" in caplog.text
    assert_equal(resumed, whole)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


class FullDisk(Callback):
    """No file can grow beyond 20 kB in some steps; a checkpoint of the miniature has 60."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        for saves in (one for one in trainer.callbacks if isinstance(one, checkpoint.Checkpointer)):
            saves._writing.wait()  # what is on its way to the disk was there before it was full
        most = 20_000 if trainer.global_step in self.steps else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


@contextmanager
def no_limit_afterwards() -> Iterator[None]:
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, handler)


def test_row_17_a_full_disk_costs_a_checkpoint_and_not_the_run(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run("whole")
    with no_limit_afterwards(), caplog.at_level(logging.WARNING):
        ran = run("full", checkpoint_every=1, extra=[FullDisk(3, 4)])
    assert caplog.text.count("could not be written") == 2
    assert "Training goes on; it ends if 3 in a row cannot be written" in caplog.text
    assert "are free there" in caplog.text
    assert_equal(ran, whole)
    assert rows(tmp_path / "full") == rows(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path / "full" / "checkpoints")) == ["last", "step-00000007", "step-00000008"]


def test_row_17_a_disk_that_stays_full_ends_the_run_with_its_last_checkpoint_whole(run: Run, tmp_path: Path) -> None:
    with no_limit_afterwards():
        ran = run("full", checkpoint_every=1, extra=[FullDisk(3, 4, 5, 6, 7)])
    assert isinstance(ran.error, CheckpointError)
    assert ran.error.exit_code == 4
    saved = store.latest(tmp_path / "full" / "checkpoints")
    assert saved is not None
    assert saved.step == 2
    assert rows(tmp_path / "full")[-1]["step"] >= 5  # figures are written as long as there is training
    assert_equal(run("full", checkpoint_every=1), run("whole"))


def test_row_17_the_last_checkpoint_is_not_optional(run: Run) -> None:
    class FullAtTheEnd(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            FullDisk(8).on_train_batch_start(trainer)

    with no_limit_afterwards():
        ran = run(extra=[FullAtTheEnd()])
    assert isinstance(ran.error, CheckpointError)


def test_row_18_where_nothing_can_be_saved_no_step_is_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moe_bench(*TINY) == 0
    run = only_run(here)
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    (run / "checkpoints").write_text("a file in its place")  # root may write anywhere else
    capsys.readouterr()
    assert moe_bench(*TINY) == 4
    told = capsys.readouterr()
    assert f"Cannot make the folder {(run / 'checkpoints').relative_to(here)}" in told.err
    assert (run / "metrics.jsonl").read_text() == ""


def test_row_19_a_checkpoint_never_has_a_part_of_its_size_wherever_temporary_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir():
        pytest.skip("no second file system here")
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    state, folder = {"state_dict": {"model.a": torch.zeros(4_000_000)}}, store.step_folder(tmp_path, 1)
    sizes: set[int] = set()
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            if (folder / "state.ckpt").exists():
                sizes.add((folder / "state.ckpt").stat().st_size)

    watcher = threading.Thread(target=poll)
    watcher.start()
    store.write(state, folder, {"step": 1})
    time.sleep(0.05)
    done.set()
    watcher.join()
    assert sizes == {(folder / "state.ckpt").stat().st_size}


def test_row_20_old_checkpoints_that_cannot_be_deleted_do_not_stop_a_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError("in use", str(path))

    monkeypatch.setattr(store.shutil, "rmtree", refuse)
    assert run(steps=4, checkpoint_every=1).error is None
    assert "training goes on" in caplog.text
    saved = store.latest(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.step == 4


def test_row_21_a_checkpoint_of_another_format_is_refused_with_both_numbers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moe_bench(*TINY) == 0
    run = only_run(here)
    (run / "summary.json").unlink()
    file = run / "checkpoints" / "step-00000002" / "manifest.json"
    file.write_text(json.dumps({**read(file), "schema": 99}))
    capsys.readouterr()
    assert moe_bench(*TINY) == 4
    assert "written in format 99, this version reads 1" in capsys.readouterr().err


# Written while training goes on


class Held:
    """A disk so slow that a save takes until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.writing: list[int] = []
        self.most = 0
        real = store.write

        def write(state: Any, folder: Path, manifest: Any) -> None:
            self.writing.append(manifest["step"])
            self.most = max(self.most, len(self.writing))
            assert self.go.wait(60)
            real(state, folder, manifest)
            self.writing.remove(manifest["step"])

        monkeypatch.setattr(checkpoint.store, "write", write)


class LetGo(Callback):
    def __init__(self, held: Held, step: int) -> None:
        self.held, self.step = held, step
        self.seen: dict[int, list[int]] = {}

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.seen[trainer.global_step] = list(self.held.writing)
        if trainer.global_step == self.step:
            self.held.go.set()


def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_saved_is_its_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    slow = LetGo(held, step=5)
    ran = run("slow", checkpoint_every=3, extra=[slow])
    assert slow.seen[4] == slow.seen[5] == [3]  # two steps were taken while step 3 was being written
    assert held.most == 1
    monkeypatch.undo()
    assert_equal(ran, run("whole"))
    third = store.load(store.step_folder(tmp_path / "slow" / "checkpoints", 6))["state_dict"]
    sixth = run("six", checkpoint_every=6, last=[GoneAt(7)]).module
    saved = store.load(store.step_folder(tmp_path / "six" / "checkpoints", 6))["state_dict"]
    assert sixth is not None
    assert all(torch.equal(third[name], saved[name]) for name in saved)


def test_without_room_for_a_copy_training_waits_and_says_so_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "free_bytes", lambda _: 1000.0)
    held = Held(monkeypatch)
    held.go.set()
    slow = LetGo(held, step=8)
    assert run(checkpoint_every=2, extra=[slow]).error is None
    assert set(map(tuple, slow.seen.values())) == {()}
    assert caplog.text.count("does not fit: training waits while it is saved") == 1


def test_a_copy_has_memory_of_its_own_whatever_it_is_nested_in() -> None:
    state = {"a": torch.arange(3), "b": [torch.ones(2, 2), (torch.zeros(()), "x")], "n": 3}
    copy = copied(state)
    state["a"].zero_()
    state["b"][0].zero_()
    assert torch.equal(copy["a"], torch.arange(3))
    assert torch.equal(copy["b"][0], torch.ones(2, 2))
    assert copy["b"][1][1:] == ("x",)
    assert copy["n"] == 3


def test_a_copy_fills_the_memory_of_the_one_before_where_shapes_and_dtypes_are_the_same() -> None:
    first = copied({"a": torch.arange(3), "b": [torch.zeros(2)], "c": torch.zeros(2), "gone": torch.zeros(1)})
    changed = {"a": torch.arange(3) + 1, "b": [torch.ones(2)], "c": torch.ones(3), "new": torch.ones(1)}
    second = copied(changed, into=first)
    assert second["a"] is first["a"]
    assert second["b"][0] is first["b"][0]
    assert second.keys() == changed.keys()
    assert all(torch.equal(second[name], changed[name]) for name in ("a", "c", "new"))
    assert torch.equal(second["b"][0], torch.ones(2))


def test_any_error_of_a_job_is_kept_for_who_asks_and_the_next_job_clears_it() -> None:
    jobs = Background()

    def fail() -> None:
        raise ZeroDivisionError("by zero")

    jobs.start(fail)
    jobs.wait()
    assert "ZeroDivisionError: by zero" in str(jobs.error)
    jobs.start(lambda: None)
    jobs.wait()
    assert jobs.error is None


@pytest.mark.slow
def test_two_hundred_checkpoints_take_no_more_memory_files_or_disk_than_a_few(tmp_path: Path) -> None:
    process, jobs = psutil.Process(), Background()
    state = {"state_dict": {f"model.{i}": torch.zeros(250_000) for i in range(20)}}  # 20 MB
    used: list[tuple[int, int]] = []

    def save(step: int, state: Any) -> None:
        store.write(state, store.step_folder(tmp_path, step), {"step": step})
        store.prune(tmp_path, step, keep=2)

    for step in range(200):
        state["state_dict"]["model.0"].fill_(step)
        copy = copied(state)
        jobs.start(lambda step=step, copy=copy: save(step, copy))
        if step in (20, 199):
            jobs.wait()
            used.append((process.memory_info().rss, process.num_fds()))
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000198", "step-00000199"]
    (early, files), (late, files_late) = used
    assert files_late <= files
    assert late < early * 1.05 + 20e6  # one copy may be there or not
