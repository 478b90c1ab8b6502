"""Fine-tuning and upcycling through the command line: what is said, recorded, resumed, and gained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.command import moe_bench, only_run, read, rows

ROOT = Path(__file__).parents[1]
SMALL = [
    *("logger=none", "runtime.workers=0", "runtime.log_every=1", "probe.draws=1", "recipe.batch=16", "probe.sets=[]"),
    *("recipe.warmup=0", "recipe.steps=2"),
]
MODEL = ["model.width=32", "model.depth=2", "model.mlp=64", "model.experts=4", "model.moe_blocks=[1]"]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of two steps under a router, made when it is first asked for."""
    made: dict[str, Path] = {}

    def run(router: str) -> Path:
        if router not in made:
            folder = tmp_path_factory.mktemp(router)
            assert moe_bench(f"router={router}", *SMALL, *MODEL, f"runs_dir={folder}/runs") == 0
            made[router] = only_run(folder)
        return made[router]

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fine_tuning_at_another_size_says_and_records_what_it_began_with(
    here: Path, before: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = before("softmax_tc")
    typed = ["experiment=finetune", f"init.run={source}", "model.image_size=64", *SMALL]
    assert moe_bench(*typed) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"of {source}: 30 tensors copied, positions interpolated from 4×4 to 8×8, 2 new (head)" in said
    run = only_run(here)
    assert run.name.startswith("softmax_tc-tiny-c1.5-digits-s0-")
    assert read(run / "summary.json")["init/run"] == f"{source.name}@2"
    assert read(run / "run.json")["config"]["init"]["source"] == f"{source.name}@2"
    assert read(run / "run.json")["config"]["recipe"]["optimizer"] == "sgd"
    assert moe_bench(*typed) == 0
    assert "skipped" in capsys.readouterr().out


def test_weights_that_turn_out_not_to_fit_are_an_error_of_one_screen(
    here: Path, before: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [f"init.run={before('softmax_tc')}", "init.head=keep", "data.num_classes=101", *SMALL]
    assert moe_bench(*typed) == 4
    told = capsys.readouterr().err
    assert "head.weight: (100, 32), the model has (101, 32)" in told
    assert "init.head=new" in told


def test_a_run_that_goes_on_reads_no_other_weights(here: Path, before: Callable[[str], Path]) -> None:
    source = shutil.copytree(before("softmax_tc"), here / "source")
    typed = [f"init.run={source}", *SMALL, "recipe.steps=4", "recipe.checkpoint_every=2"]
    assert moe_bench(*typed) == 0
    run = only_run(here)
    whole = rows(run)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    shutil.rmtree(source / "checkpoints")
    assert moe_bench(*typed) == 0
    assert read(run / "status.json")["attempt"] == 2
    figures = [
        [{k: v for k, v in row.items() if k.startswith(("train/", "val/"))} for row in some]
        for some in (whole, rows(run))
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["ddp", "fsdp"])
def test_on_two_ranks_training_begins_with_the_same_weights(
    here: Path, before: Callable[[str], Path], runtime: str
) -> None:
    typed = [f"init.upcycle={before('dense')}", "router=softmax_ec", "recipe.lr=0.01", *SMALL]
    assert moe_bench(*typed, "runs_dir=one/runs") == 0
    two = [f"runtime={runtime}", "runtime.accelerator=cpu", "runtime.devices=2", "runs_dir=two/runs"]
    command = [sys.executable, "-m", "moe_bench", *typed, *two]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200)
    alone, together = (rows(only_run(here / name)) for name in ("one", "two"))
    for row, other in zip(alone, together, strict=True):
        figures = {key for key in row if key.startswith(("train/", "val/")) or key == "grad_norm"}
        assert {key: other[key] for key in figures} == pytest.approx({key: row[key] for key in figures}, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)  # 300 steps, minutes where others work too
def test_what_a_dense_model_learned_is_there_before_its_experts_learn(here: Path) -> None:
    """The probe of an upcycled model that has not moved beats that of one that drew its weights."""
    probed = [*SMALL, "model=mini", "probe.sets=[digits]"]
    still = [*probed, "recipe.steps=1", "recipe.lr=1e-9", "recipe.end_lr=0", "router=softmax_ec", "capacity=2"]
    learned = [*probed, "recipe.steps=300", "recipe.batch=128", "router=dense", "runs_dir=dense/runs"]
    assert moe_bench(*learned) == 0
    source = only_run(here / "dense")
    assert moe_bench(f"init.upcycle={source}", *still, "runs_dir=upcycled/runs") == 0
    assert moe_bench(*still, "runs_dir=drawn/runs") == 0
    upcycled, drawn = (read(only_run(here / name) / "summary.json") for name in ("upcycled", "drawn"))
    score = "probe/digits-single/10shot"
    assert upcycled["init/upcycle"] == f"{source.name}@300"
    assert upcycled[score] > drawn[score] + 0.1
