"""The probe inside a real run, and afterwards from the command line with the run's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from moe_bench import config as configs
from moe_bench.config.schema import CapacityConfig, ModelConfig, SparseRouterConfig
from moe_bench.data.datamodule import ImageData
from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.model import from_config
from moe_bench.monitor.jsonl import JsonlLogger
from moe_bench.probe import cli
from moe_bench.probe.callback import ProbeCallback
from moe_bench.probe.features import pre_logits
from moe_bench.probe.score import ProbeSet, Protocol, Reader, score
from moe_bench.training.checkpoint import Checkpointer
from moe_bench.training.module import LitViT, Optimization
from moe_bench.training.optim import Schedule
from moe_bench.training.place import resolve
from moe_bench.training.trainer import make_trainer

MODEL = ModelConfig(image_size=8, patch=4, width=16, depth=2, heads=2, mlp=16, experts=2, moe_blocks=[1])
ROUTER, CAPACITY = SparseRouterConfig(), CapacityConfig(group_images=4)
PROTOCOL = Protocol(shots=(2, 5), draws=2)
BATCH = 16


def train(folder: Path, sets: list[ProbeSet], every: int = 0, extra: list[Callback] | None = None) -> ProbeCallback:
    data = ImageData(sets[0].train, sets[0].test, image_size=8, steps=5, batch=8, device_batch=8, workers=0)
    torch.manual_seed(0)
    module = LitViT(
        from_config(MODEL, ROUTER, CAPACITY, data.num_classes),
        Optimization(Schedule("constant", 1e-2, 5)),
        num_classes=data.num_classes,
    )
    probe = ProbeCallback(sets, PROTOCOL, image_size=8, batch=BATCH, workers=0, every=every)
    trainer = make_trainer(
        resolve("cpu"),
        steps=5,
        callbacks=[*(extra or []), probe, Checkpointer(folder / "checkpoints", batch=8)],
        loggers=[JsonlLogger(folder / "metrics.jsonl", 8)],
    )
    trainer.fit(module, datamodule=data)
    return probe


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "probe/l2" in row]


def test_probes_come_every_so_many_steps_and_once_at_the_end(sets: list[ProbeSet], tmp_path: Path) -> None:
    probe = train(tmp_path, sets, every=2)
    told = rows(tmp_path)
    assert [row["step"] for row in told] == [2, 4, 5]
    assert {name: told[-1][name] for name in probe.metrics} == pytest.approx(probe.metrics)
    assert {row["probe/easy/5shot/floor"] for row in told} == {probe.metrics["probe/easy/5shot/floor"]}
    assert len({row["probe/easy/2shot"] for row in told} | {row["probe/hard/5shot"] for row in told}) > 1


def test_probing_does_not_change_training(sets: list[ProbeSet], tmp_path: Path) -> None:
    ends = []

    class Keep(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            ends.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    for name, every in (("often", 1), ("never", 0)):
        (tmp_path / name).mkdir()
        train(tmp_path / name, sets, every=every, extra=[Keep()])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_without_sets_nothing_is_measured(sets: list[ProbeSet], tmp_path: Path) -> None:
    data = ImageData(sets[0].train, sets[0].test, image_size=8, steps=1, batch=8, device_batch=8, workers=0)
    module = LitViT(from_config(MODEL, ROUTER, CAPACITY, 3), Optimization(Schedule("constant", 1e-2, 1)), num_classes=3)
    probe = ProbeCallback([], PROTOCOL, image_size=8, batch=BATCH)
    logger = JsonlLogger(tmp_path / "metrics.jsonl", 8)
    make_trainer(resolve("cpu"), steps=1, callbacks=[probe], loggers=[logger], log_every=1).fit(module, datamodule=data)
    assert probe.metrics == {}
    (only,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert "train/loss" in only


@pytest.fixture(scope="module")
def finished(sets: list[ProbeSet], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeCallback]:
    """A run folder with what the command needs of it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    probe = train(folder, sets)
    return folder, probe


@pytest.fixture
def run_folder(finished: tuple[Path, ProbeCallback], easy: Path, hard: Path) -> Path:
    from dataclasses import asdict, replace

    default = configs.load([])
    settings = replace(default.probe, sets=[str(easy), str(hard)], shots=[2, 5], draws=2)
    config = replace(default, model=MODEL, router=ROUTER, capacity=CAPACITY, probe=settings)
    (finished[0] / "run.json").write_text(json.dumps({"config": asdict(config)}))
    return finished[0]


def test_the_command_gives_the_scores_of_the_run_again(
    run_folder: Path, finished: tuple[Path, ProbeCallback], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([str(run_folder), "--json", "--batch", str(BATCH), "--workers", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    metrics = finished[1].metrics
    assert [(one["dataset"], one["shots"]) for one in told] == [("easy", 2), ("easy", 5), ("hard", 2), ("hard", 5)]
    for one in told:
        name = f"probe/{one['dataset']}/{one['shots']}shot"
        assert one["accuracy"] == pytest.approx(metrics[name])
        assert one["floor"] == pytest.approx(metrics[f"{name}/floor"])
        assert one["step"] == 5


def test_the_command_prints_scores_beside_their_floor_and_its_protocol(
    run_folder: Path, easy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in run_folder.rglob("*"))
    words = ["--data", str(easy), "--shots", "1,10", "--policy", "best", "--draws", "1", "--workers", "0"]
    assert cli.run([str(run_folder), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["data", "set", "shots", "accuracy", "pixels", "λ"]
    assert [line.split()[:2] for line in lines[1:3]] == [["easy", "1"], ["easy", "10"]]
    assert "step 5" in lines[-1]
    assert "1 draw" in lines[-1]
    assert "best" in lines[-1]
    assert sorted(path for path in run_folder.rglob("*")) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run\.json"):
        cli.run([str(tmp_path)])


def test_no_data_set_is_asked_for(run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    record["config"]["probe"]["sets"] = []
    record["config"]["data"]["probe"] = []
    (run_folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="--data DIR"):
        cli.run([str(run_folder)])


def test_features_do_not_depend_on_gradients_or_mode(sets: list[ProbeSet]) -> None:
    """pre_logits leaves no graph behind."""
    model = from_config(MODEL, ROUTER, CAPACITY, 3).eval()
    encode = pre_logits(model)
    assert not encode(torch.zeros(4, 3, 8, 8), torch.ones(4, dtype=torch.bool)).requires_grad
    told = [score(sets[:1], PROTOCOL, encode, Reader(8, BATCH, 0)) for _ in range(2)]
    assert told[0] == told[1]
