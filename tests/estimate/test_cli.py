"""What a run will take is told before it: by arithmetic at once, by a few pieces of work where that is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moe_bench.config import load, run_id, science
from moe_bench.errors import ConfigError
from moe_bench.estimate import cli, speed

SMALL = ["router=softmax_tc", "recipe.steps=10", "recipe.batch=16"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.run([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_is_the_run_that_would_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(SMALL, capsys)
    assert found["run_id"] == run_id(load(SMALL))
    assert found["flops/run"] == 10 * found["flops/step"]
    assert found["memory/least_bytes"] < found["memory/bytes"]
    assert found["time/train_s"] is None


def test_two_capacities_are_more_work_and_no_more_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (told(["router=softmax_ec", f"capacity={c}"], capsys) for c in (1, 2))
    assert two["params/total"] == one["params/total"]
    assert two["params/active"] > one["params/active"]
    assert two["flops/step"] > one["flops/step"]


def test_measuring_tells_step_and_run_and_what_they_rest_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = told([*SMALL, "--measure"], capsys)
    assert found["time/train_s"] == pytest.approx(10 * found["time/step_ms"] / 1000)
    assert found["cost/device_days"] == pytest.approx(found["time/train_s"] / 86400)
    assert "without reading pictures and without the update" in found["time/source"]


def leave(words: list[str], seconds: float, **said: object) -> None:
    """A finished run of 100 steps."""
    cfg = load(words)
    folder = Path(cfg.runs_dir, run_id(cfg))
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"science": science(cfg)}))
    done = {"steps": 100, "time/train_s": seconds, "device": "CPU", "world_size": 1}
    (folder / "summary.json").write_text(json.dumps({**done, **said}))


def test_finished_runs_tell_the_time_without_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    leave([*SMALL, "seed=3", "recipe.lr=0.01", "recipe.steps=100"], 200.0)
    found = told(SMALL, capsys)
    assert (found["time/step_ms"], found["time/train_s"]) == (2000.0, 20.0)
    assert found["time/source"] == "finished runs like this on CPU"


@pytest.mark.parametrize(
    "unlike",
    [
        "model.width=64",
        "model.image_size=64",
        "capacity.rounding=up",
        "recipe.batch=32",
        "recipe.precision=bf16",
        "router.k=2",
        "runtime.devices=2",
        "runtime.accelerator=gpu",
    ],
)
def test_a_run_whose_steps_are_other_work_tells_nothing(unlike: str, capsys: pytest.CaptureFixture[str]) -> None:
    leave(SMALL, 200.0)
    assert told([*SMALL, unlike], capsys)["time/train_s"] is None


def test_a_short_run_tells_nothing_since_most_of_it_was_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    leave(SMALL, 200.0, steps=99)
    assert told(SMALL, capsys)["time/train_s"] is None


def test_of_two_devices_the_one_counts_that_is_asked_for_or_had_more_runs(capsys: pytest.CaptureFixture[str]) -> None:
    leave([*SMALL, "seed=1"], 200.0)
    leave([*SMALL, "seed=2"], 200.0)
    leave([*SMALL, "seed=3"], 1.0, device="A GPU")
    asked = [told([*SMALL, f"runtime.accelerator={at}"], capsys)["time/step_ms"] for at in ("auto", "cpu", "gpu")]
    assert asked == [2000.0, 2000.0, 10.0]


def test_two_blocks_stand_for_a_large_model() -> None:
    large = load(["model=l16", "router=sparse_ec"])
    played = speed.stand_in(large)
    assert (played.model.depth, played.model.width, played.router) == (2, large.model.width, large.router)
    assert speed.stand_in(load(SMALL)) == load(SMALL)


def test_a_screen_is_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["model=b16", "router=soft", "capacity=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 15
    assert any("966.0 M parameters, 114.5 M active" in line for line in lines)


def test_a_mistake_is_told_as_for_a_run() -> None:
    with pytest.raises(ConfigError, match="router=soft"):
        cli.run(["router=sofd"])


def test_arithmetic_needs_no_torch() -> None:
    script = "import sys; from moe_bench.estimate import cli; cli.run(['model=b16']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
