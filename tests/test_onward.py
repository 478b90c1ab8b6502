"""What is offered after a run: only commands that do something."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_bench import parent
from moe_bench.config import load, run_id
from moe_bench.onward import next_commands, with_another_router

OWN = "name: mine\naffinity: sinkhorn\nchoice: token\ncombine: plan\nk: 2\n"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(parent.CELL, raising=False)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", "router=soft"),
        ("router=soft seed=3", "router=softmax_ec seed=3"),
        ("router=soft router.name=by_place router.impl=my_router:ByPlace recipe.steps=6", "router=soft recipe.steps=6"),
        ("router=softmax_tc +router.options.x=1 router.impl=my_router:ByPlace", "router=soft"),
        ("router=soft router.normalize=false router.scale=2", "router=softmax_ec"),
        ("router=softmax_tc router.importance=0 router.load=0 router.bias_rate=0.1", "router=soft"),
        ("router=sparse_ec router.solver=sweeps force=true capacity=1.5", "router=soft capacity.factor=1.5"),
        ("router=softmax_tc capacity.eval_factor=4", "router=softmax_ec capacity.eval_factor=4"),
        ("recipe.betas='[0.9, 0.99]'", "router=soft 'recipe.betas=[0.9, 0.99]'"),
    ],
)
def test_the_same_with_another_router_is_a_run_of_its_own(typed: str, offered: str) -> None:
    words = shlex.split(typed.replace("capacity=1.5", "capacity.factor=1.5"))
    cfg = load(words)
    command = with_another_router(cfg, words)
    assert command == f"moe-bench {offered}"
    assert run_id(load(shlex.split(offered))) != run_id(cfg)


@pytest.mark.parametrize("flag", ["--config-dir own", "--config-dir=own"])
def test_a_folder_of_ones_own_stays_with_its_flag(flag: str) -> None:
    Path("own/router").mkdir(parents=True)
    Path("own/router/mine.yaml").write_text(OWN)
    cfg = load(["router=mine", "seed=1"], "own")
    typed = [*flag.split(" "), "router=mine", "seed=1"]
    assert with_another_router(cfg, typed) == "moe-bench --config-dir own router=soft seed=1"


def test_nothing_is_offered_that_does_not_compose() -> None:
    assert with_another_router(load(["seed=1"]), ["seed=1,2"]) is None
    assert with_another_router(load(), ["model.depht=3"]) is None


def test_a_sweep_offers_nothing_after_each_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(next_commands(load(), Path("runs/x"), [])) == 3
    monkeypatch.setenv(parent.CELL, "1")
    assert next_commands(load(), Path("runs/x"), []) == []


@pytest.mark.parametrize(
    ("typed", "shots"),
    [
        ([], "1,5,10"),
        (["probe.policy=heldout", "probe.shots=[5]"], "5,10"),
        (["probe=none"], "1,5,10"),
        (["probe=none", "data.probe=[]"], None),
    ],
)
def test_other_few_shot_settings_are_some_that_the_policy_takes(typed: list[str], shots: str | None) -> None:
    offered = [command for command, does in next_commands(load(typed), Path("my runs/x"), typed) if "few-shot" in does]
    assert offered == ([f"moe-bench probe 'my runs/x' --shots {shots}"] if shots else [])


def test_it_takes_no_torch_and_no_time() -> None:
    began = time.process_time()
    next_commands(load(), Path("runs/x"), ["recipe.steps=7"])
    assert time.process_time() - began < 2
    script = "import sys, moe_bench.onward; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
