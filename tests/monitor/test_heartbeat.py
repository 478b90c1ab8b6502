from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from moe_bench.errors import CheckpointError
from moe_bench.monitor import heartbeat
from moe_bench.monitor.atomic import read_json
from moe_bench.monitor.folder import RunFolder
from moe_bench.monitor.heartbeat import Eta, Heartbeat

from .tiny import fit


class Look(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append(read_json(self.path) or {})


def begun(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.open({}, find_checkpoint=lambda _: None)
    return folder


def test_status_follows_the_steps_with_the_time_left(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        look = Look(folder.status_json)
        fit(tmp_path, 4, callbacks=[Heartbeat(folder, every_s=0), look])
    assert [(status["step"], status["steps"]) for status in look.seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert look.seen[0]["eta_s"] is None  # the first step is no measure of the others
    assert look.seen[1]["eta_s"] > look.seen[3]["eta_s"] == 0


def test_the_time_left_follows_the_speed_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock)
    eta = Eta()
    eta.start(100)
    clock = 500.0  # a first step that waited
    assert eta.seconds(101, 1000) is None
    for step in range(102, 201):  # ten seconds a step while the machine is shared
        clock += 10
        left = eta.seconds(step, 1000)
    assert left == pytest.approx(10 * 800)
    for step in range(201, 701):  # and one second from then on
        clock += 1
        left = eta.seconds(step, 1000)
    assert left == pytest.approx(300)


def test_status_is_not_written_at_every_step(tmp_path: Path) -> None:
    with begun(tmp_path) as folder:
        look = Look(folder.status_json)
        fit(tmp_path, 4, callbacks=[Heartbeat(folder, every_s=60), look])
    assert {status["step"] for status in look.seen} == {0}
    assert (read_json(tmp_path / "status.json") or {})["step"] == 4


def test_a_run_whose_folder_is_gone_stops_with_an_error_of_storage(tmp_path: Path) -> None:
    class Remove(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            if (tmp_path / "run").exists():
                (tmp_path / "run").rename(tmp_path / "away")

    with begun(tmp_path / "run") as folder, pytest.raises(CheckpointError, match="moved or deleted"):
        fit(tmp_path, 4, callbacks=[Heartbeat(folder, every_s=0), Remove()])
