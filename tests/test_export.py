"""A finished run as one safe file; what is not finished or not whole is refused and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from moe_bench import cli, export
from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.model import from_config
from moe_bench.training.store import STATE
from moe_bench.training.trained import load_model, run_config

QUICK = [
    "debug=fast", "probe.sets=[]", "runtime.workers=0", "router=sinkhorn_ec", "capacity=2",
    "model.width=32", "model.depth=2", "model.mlp=64", "model.moe_blocks=[1]",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("export")
    assert cli.dispatch([*QUICK, f"runs_dir={folder}"]) == 0
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def test_the_file_alone_makes_the_model_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.run([str(run)]) == 0
    path = run / "model.safetensors"
    assert f"{path}: " in capsys.readouterr().out
    with safe_open(path, "pt") as file:
        told = file.metadata()
    config, about = run_config(run), json.loads(told["config"])
    assert (about["router"]["name"], about["capacity"]["factor"]) == ("sinkhorn_ec", 2.0)
    assert json.loads(told["summary"])["run_id"] == told["run_id"] == run.name
    model = from_config(config.model, config.router, config.capacity, 100)
    model.load_state_dict(load_file(path))
    images = torch.randn(8, 3, 32, 32)
    expected, _ = load_model(run, config)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), expected.eval()(images))


def test_a_file_that_is_there_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_text("precious")
    with pytest.raises(ConfigError, match="is there already"):
        export.run([str(run), "--out", str(mine)])
    assert mine.read_text() == "precious"


def test_an_unfinished_run_is_refused_with_how_far_it_is(run: Path) -> None:
    (run / "summary.json").unlink()
    status = json.loads((run / "status.json").read_text()) | {"state": "preempted", "step": 1, "steps": 2}
    (run / "status.json").write_text(json.dumps(status))
    with pytest.raises(CheckpointError, match=r"not finished \(preempted at step 1 of 2\)"):
        export.run([str(run)])
    assert not (run / "model.safetensors").exists()


@pytest.mark.parametrize("spoil", ["flip", "lose"])
def test_a_damaged_checkpoint_is_refused_and_no_older_one_taken(run: Path, spoil: str) -> None:
    last = run / "checkpoints" / "step-00000002"
    shutil.copytree(last, run / "checkpoints" / "step-00000001")
    if spoil == "lose":
        shutil.rmtree(last)
    else:
        data = bytearray((last / STATE).read_bytes())
        data[len(data) // 2] ^= 1
        (last / STATE).write_bytes(data)
    with pytest.raises(CheckpointError, match="step-00000002"):
        export.run([str(run)])
    assert not (run / "model.safetensors").exists()


def test_the_folder_of_the_file_is_made(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "dir" / "model.safetensors"
    assert export.run([str(run), "--out", str(out)]) == 0
    assert list(out.parent.iterdir()) == [out]


def test_a_folder_that_cannot_be_made_is_told_in_plain_words(run: Path) -> None:
    place = run / "run.json" / "sub"
    with pytest.raises(CheckpointError, match=rf"Cannot make the folder {place}: Not a directory\. .* with --out"):
        export.run([str(run), "--out", str(place / "model.safetensors")])


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"could not be written: .*No space left on device"):
        export.run([str(run), "--out", str(tmp_path / "out" / "model.safetensors")])
    assert list((tmp_path / "out").iterdir()) == []


def test_no_run_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run folder"):
        export.run([str(tmp_path)])
    (tmp_path / "run.json").touch()
    with pytest.raises(ConfigError, match=r"run\.json is a file\. Give the folder of a run"):
        export.run([str(tmp_path / "run.json")])


@pytest.mark.parametrize("verb", ["evaluate", "explain", "probe"])
def test_a_run_that_has_saved_nothing_is_told_as_export_tells_it(run: Path, verb: str) -> None:
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    status = json.loads((run / "status.json").read_text()) | {"state": "failed", "step": 0, "steps": 2}
    (run / "status.json").write_text(json.dumps(status))
    told = r"not finished \(failed at step 0 of 2\), so it has no .*weights yet\. .* begins at step 0"
    with pytest.raises(CheckpointError, match=told):
        export.run([str(run)])
    data = ["--data", "digits"] if verb == "probe" else []
    with pytest.raises(CheckpointError, match=told):
        cli.dispatch([verb, str(run), *data])
