"""A whole run through the command line: its folder, the same command again, and what is refused before it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from faults.command import moe_bench, only_run, read

ROUTERS = ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft", "dense")
QUICK = ["debug=fast", "runtime.workers=0", "model.width=32", "model.depth=2", "model.mlp=64", "model.moe_blocks=[1]"]
SUMMARY = {
    "run_id", "router", "model", "capacity", "data", "seed", "steps", "samples_seen", "val/prec1", "val/loss",
    "probe/digits-single/10shot", "probe/digits-single/10shot/std", "probe/l2", "params/total", "params/active",
    "flops/image", "tokens_per_group", "slots_per_expert", "time/train_s", "time/step_ms_median", "cost/device_days",
    "cost/images_per_s", "device", "world_size", "memory/peak_gb",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_leaves_a_finished_run_with_the_promised_summary(here: Path, router: str) -> None:
    assert moe_bench(f"router={router}", *QUICK) == 0
    run = only_run(here)
    summary = read(run / "summary.json")
    assert summary.keys() >= SUMMARY
    assert 0 <= summary["val/prec1"] <= 1
    assert summary["val/count"] == 1000
    assert summary["samples_seen"] == summary["steps"] * 16
    assert read(run / "status.json")["state"] == "finished"
    assert read(run / "run.json")["config"]["router"]["name"] == router
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("step" in row for row in rows)
    assert (run / "checkpoints" / "last").read_text().strip() == "step-00000002"


OWN = """
import torch
from torch import nn
from moe_bench.routing import token_choice

class AllToTheLast(nn.Module):
    def __init__(self, dim, experts, *, capacity, tokens):
        super().__init__()
        self.experts, self.capacity = experts, capacity

    def forward(self, x, mask=None):
        gates = torch.eye(self.experts, device=x.device)[-1].expand(*x.shape[:2], -1)
        return token_choice(gates, gates, k=1, capacity=self.capacity.slots(x.shape[1], self.experts), mask=mask)
"""


def test_a_router_of_ones_own_is_measured_and_warned_of_like_ours(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "last_router.py").write_text(OWN)
    mine = ["router=softmax_tc", "router.name=mine", "router.impl=last_router:AllToTheLast"]
    assert moe_bench(*mine, *QUICK, "runtime.log_every=1", "runtime.telemetry=detailed") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "% of tokens dropped" in printed
    assert printed.count("routing collapsed in blocks.1: 100.0 % of the tokens go to expert 7") == 1
    (layer,) = (json.loads(line) for line in (only_run(here) / "routing" / "layers.jsonl").read_text().splitlines())
    assert layer["load"] == [0] * 7 + [8]
    assert layer["dropped_tokens"] == pytest.approx(1 - 1 / 8, abs=0.01)  # the last group is not full


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_told_what_one_waits_for_and_a_pipe_is_not(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # what makes of a pipe a terminal for rich
    assert moe_bench(*QUICK) == 0
    out = capsys.readouterr().out
    assert [word in out for word in ("loading …", "timing a few pieces of work …")] == [terminal, terminal]


def test_the_same_command_again_skips_and_changes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moe_bench(*QUICK) == 0
    before = {path: path.stat().st_mtime_ns for path in only_run(here).rglob("*") if path.is_file()}
    assert moe_bench(*QUICK) == 0
    assert "skipped" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in only_run(here).rglob("*") if path.is_file()}


def test_force_puts_the_finished_run_aside(here: Path) -> None:
    assert moe_bench(*QUICK) == 0
    first = only_run(here)
    assert moe_bench(*QUICK, "force=true") == 0
    assert read(first.with_name(first.name + "~1") / "summary.json")["run_id"] == first.name
    assert read(first / "summary.json")["run_id"] == first.name


def test_a_model_that_cannot_fit_is_refused_with_the_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moe_bench("model=l16", "debug=fast", "runtime.memory_gb=22", "runtime.accelerator=cpu") == 2
    told = capsys.readouterr().err
    assert "M parameters" in told
    assert "22.0 GB are free" in told
    assert "model.experts=8" in told


def test_a_missing_shard_folder_is_exit_code_3_and_names_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pictures").mkdir()
    assert moe_bench(*QUICK, "data=shards", f"data.path={here / 'pictures'}") == 3
    assert str(here / "pictures") in capsys.readouterr().err
    assert read(only_run(here) / "status.json")["exit_code"] == 3


def test_a_diverging_run_stops_with_exit_code_5_before_its_weights_are_spoilt(here: Path) -> None:
    assert moe_bench(*QUICK, "recipe.lr=1e30", "recipe.clip=null", "recipe.steps=6", "recipe.warmup=0") == 5
    status = read(only_run(here) / "status.json")
    assert status["state"] == "diverged"
    assert not (only_run(here) / "summary.json").exists()


def test_a_router_of_ones_own_is_found_in_the_current_directory(here: Path) -> None:
    (here / "own_router.py").write_text(
        "from moe_bench.routing import SparseRouter\n"
        "class Own(SparseRouter):\n"
        "    def __init__(self, dim, experts, *, capacity, tokens):\n"
        "        super().__init__(dim, experts, affinity='softmax', choice='token', capacity=capacity, noise=0.0)\n"
    )
    assert moe_bench(*QUICK, "router.name=own", "router.impl=own_router:Own") == 0
    assert only_run(here).name.startswith("own-")


def test_a_router_of_ones_own_from_yaml_alone_trains_and_is_reported(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own" / "router").mkdir(parents=True)
    yaml = "name: mine\naffinity: sinkhorn\nchoice: token\ncombine: plan\nk: 2\niterations: 7\n"
    (here / "own" / "router" / "mine.yaml").write_text(yaml)
    assert moe_bench("--config-dir", "own", "router=mine", *QUICK) == 0
    told = capsys.readouterr().out
    assert "mine: Sinkhorn plan (7 iterations) × tokens choose 2 experts each × the plan's weights" in told
    run = only_run(here)
    assert run.name.startswith("mine-tiny-c1-")
    summary = read(run / "summary.json")
    assert (summary["router"], summary["router/iterations"]) == ("mine", 7)
    assert moe_bench("ls", "runs") == 0
    assert moe_bench("report", "runs") == 0
    assert capsys.readouterr().out.count("mine") >= 2


@pytest.mark.parametrize(
    ("router", "solved"),
    [
        (["router=sparse_ec"], {"router/solver": "adam", "router/iterations": 20}),
        (["router=sparse_ec", "router.solver=sweeps"], {"router/solver": "sweeps", "router/iterations": 3}),
        (["router=sinkhorn_ec"], {"router/iterations": 20}),
        (["router=hash", "capacity.eval_factor=2"], {"capacity/eval": 2.0, "slots_per_expert/eval": 32}),
        (["router=sigmoid_tc"], {}),
        (["router=relu_tc"], {}),
        (["router=random"], {}),
    ],
)
def test_the_summary_says_how_plans_were_solved_and_what_room_evaluation_had(
    here: Path, router: list[str], solved: dict[str, object]
) -> None:
    assert moe_bench(*router, *QUICK) == 0
    summary = read(only_run(here) / "summary.json")
    keys = ("router/solver", "router/iterations", "capacity/eval", "slots_per_expert/eval")
    assert {key: summary[key] for key in keys if key in summary} == solved


FAILING = """
import torch

def late(logits):
    if len(logits) > 2:
        return logits.softmax(0) @ torch.ones(3)
    return logits

class Late(torch.nn.Module):
    def __init__(self, dim, experts, *, capacity, tokens):
        super().__init__()

    def forward(self, x, mask=None):
        return [][len(x)]
"""


@pytest.mark.parametrize(
    ("typed", "said", "line"),
    [
        (["router.name=late", "router.impl=own_failing:Late"], "IndexError: list index out of range", 14),
        (["router.name=late", "router.affinity=own_failing:late"], "RuntimeError: ", 6),
    ],
)
def test_an_error_in_ones_own_code_is_not_called_a_bug_of_ours(
    here: Path, capsys: pytest.CaptureFixture[str], typed: list[str], said: str, line: int
) -> None:
    (here / "own_failing.py").write_text(FAILING)
    assert moe_bench(*QUICK, *typed, "capacity.group_images=4") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"moe-bench: {said}")
    assert f"own_failing.py:{line}" in told
    assert f"code that {typed[1]} names, and none of moe-bench's" in told
    assert "a bug" not in told
    kept = only_run(here) / "traceback.txt"
    assert f"The traceback is in {kept.relative_to(here)}" in told
    assert "own_failing.py" in kept.read_text()
    assert read(only_run(here) / "status.json")["exit_code"] == 2


def test_a_module_of_ones_own_that_fails_on_import_is_told_with_its_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own_broken.py").write_text("import torch\nx = undefined\n")
    assert moe_bench(*QUICK, "router.impl=own_broken:Router") == 2
    told = capsys.readouterr().err
    assert "router.impl=own_broken:Router cannot be imported: NameError at " in told
    assert "own_broken.py:2: name 'undefined' is not defined" in told


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["router.impl=own_ruoter:Own"], 2, "there is no module 'own_ruoter'"),
        (["data=shards", "data.path=pictuers"], 3, "'pictuers' does not exist; did you mean 'pictures'?"),
        (["probe.sets=[pictuers]"], 3, "probe.sets: "),
    ],
)
def test_what_is_not_there_is_refused_without_torch_and_leaves_nothing(
    here: Path, typed: list[str], code: int, said: str
) -> None:
    (here / "pictures").mkdir()
    program = (
        f"import sys; sys.argv = ['moe-bench', *{typed!r}]\n"
        "from moe_bench.cli import main; code = main(); print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "False\n")
    assert said in done.stderr
    assert [path.name for path in here.iterdir()] == ["pictures"]


def test_a_finished_run_is_skipped_without_importing_torch(here: Path) -> None:
    assert moe_bench(*QUICK) == 0
    code = (
        f"import sys; sys.argv = ['moe-bench', *{QUICK!r}]\n"
        "from moe_bench.cli import main; code = main(); print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
