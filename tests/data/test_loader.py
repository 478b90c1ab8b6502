from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from moe_bench.data.dataset import Batch, Pictures, Request
from moe_bench.data.decode import evaluation_transform
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.loader import BatchLoader, InOrder, default_workers, eval_loader
from moe_bench.errors import DataError, WorkerLostError
from moe_bench.guard import guarded
from tests.data.shards import sample, write_shards, write_tar


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    return open_split(write_shards(tmp_path / "set", [4, 3]), progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_come_once_in_the_order_asked_for(index: ShardIndex, workers: int) -> None:
    batches = list(eval_loader(index, [6, 0, 3, 3, 5], image_size=8, batch=2, workers=workers))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [6, 0, 3, 3, 5, -1]
    assert batches[2]["valid"].tolist() == [True, False]


def test_all_pictures_are_the_default(index: ShardIndex) -> None:
    [batch] = eval_loader(index, image_size=8, batch=7, workers=0)
    assert batch["index"].tolist() == list(range(7))


@pytest.mark.parametrize(("pad_to", "sizes"), [(None, [5, 5]), (2, [6, 2]), (1, [5, 2])])
def test_batches_are_filled_up_to_what_was_asked(index: ShardIndex, pad_to: int | None, sizes: list[int]) -> None:
    loader = eval_loader(index, image_size=8, batch=5, workers=0, pad_to=pad_to)
    batches = list(loader)
    assert [len(batch["valid"]) for batch in batches] == sizes
    assert len(loader) == 2
    assert sum(int(batch["valid"].sum()) for batch in batches) == 7


def test_squeezing_and_cropping_differ_for_pictures_that_are_not_square(tmp_path: Path) -> None:
    from tests.data.shards import picture

    path = str(write_tar(tmp_path / "s.tar", sample("a", 0, picture(size=(16, 8)))))
    wide = open_split(path, progress=False)
    squeezed, cropped = (
        next(iter(eval_loader(wide, image_size=8, resize=resize, batch=1, workers=0)))["image"]
        for resize in ("square", "short_side")
    )
    assert not torch.equal(squeezed, cropped)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_it_was_raised(tmp_path: Path, workers: int) -> None:
    path = write_tar(tmp_path / "s.tar", [*sample("a", 0), *sample("b", 0, b"junk")])
    loader = eval_loader(open_split(str(path), progress=False), image_size=8, batch=1, workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{path}:b (4 bytes) is not a whole")
    assert "Traceback" not in str(caught.value)


class Deadly(Pictures):
    def batch(self, requests: object) -> Batch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_is_told_in_plain_words(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    deadly = Deadly(index, evaluation_transform(8), 8)
    with pytest.raises(WorkerLostError, match=r"a data process died \(pid \d+\).*runtime\.workers"):
        list(BatchLoader(deadly, InOrder(np.arange(7), 2, 2), workers=1))


def test_row_27_a_worker_that_took_its_batch_along_is_told_likewise(index: ShardIndex) -> None:
    before = multiprocessing.active_children()
    batches = iter(BatchLoader(Pictures(index, evaluation_transform(8), 8), InOrder(np.arange(7), 2, 2), workers=1))
    next(batches)
    time.sleep(0.5)  # the next batches are announced, and their memory is still the worker's to hand over
    unheard = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler may come later than the broken connection
    try:
        (worker,) = set(multiprocessing.active_children()) - set(before)
        worker.kill()
        with pytest.raises(WorkerLostError, match=rf"a data process died \(pid {worker.pid}\)"):
            next(batches)
    finally:
        signal.signal(signal.SIGCHLD, unheard)


def test_row_27_a_death_noticed_between_batches_ends_any_command_in_plain_words(
    index: ShardIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        before = multiprocessing.active_children()
        batches = iter(BatchLoader(Pictures(index, evaluation_transform(8), 8), InOrder(np.arange(7), 2, 2), workers=1))
        next(batches)
        (worker,) = set(multiprocessing.active_children()) - set(before)
        worker.kill()
        for _ in range(100):  # torch's handler of the signal raises in here
            time.sleep(0.1)
        return 0

    assert guarded(command) == WorkerLostError.exit_code == 7
    assert capsys.readouterr().err.startswith("moe-bench: a data process died (pid ")


class Stuck(Pictures):
    def batch(self, requests: object) -> Batch:
        time.sleep(3600)
        raise AssertionError


def test_row_27_a_stuck_worker_is_named_and_ended(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # given to one that is to end
    stuck = Stuck(index, evaluation_transform(8), 8)
    others = set(multiprocessing.active_children())  # a process of another test may not have ended yet
    with pytest.raises(WorkerLostError, match=r"a data process is stuck \(pid \d+\): .* in 0\.5 s"):
        list(BatchLoader(stuck, InOrder(np.arange(7), 2, 2), workers=2, timeout_s=0.5))
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("signals", [1, 2])
def test_a_worker_outlives_one_sigterm_to_the_whole_run_and_no_more(index: ShardIndex, signals: int) -> None:
    class Signalled(Pictures):
        def __getitem__(self, requests: list[Request]) -> Batch:
            if requests[0][0] < 2 * signals:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(requests)  # type: ignore[return-value]

    pictures = Signalled(index, evaluation_transform(8), 8)
    loader = BatchLoader(pictures, InOrder(np.arange(7), 2, 2), workers=1)
    if signals == 1:
        assert len(list(loader)) == 4
    else:
        with pytest.raises(WorkerLostError):
            list(loader)


def test_starting_a_loader_draws_no_random_numbers_of_the_run(index: ShardIndex) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for workers in (0, 1):
        list(eval_loader(index, image_size=8, batch=4, workers=workers))
    assert torch.equal(torch.rand(2), expected)


def test_workers_leave_a_core_to_train() -> None:
    cores = len(os.sched_getaffinity(0))
    assert default_workers() == max(0, min(8, cores - 1))
    assert default_workers(devices=cores) == 0
