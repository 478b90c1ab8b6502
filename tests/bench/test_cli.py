"""``moe-bench bench`` as typed, on layers of a few kilobytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_bench.bench import cli, layers, machine, peers, probe
from moe_bench.bench.cases import ROUTERS, ProbeCase
from moe_bench.bench.results import EACH, OURS, PROBE_JOBS
from moe_bench.errors import EXIT_SIGINT, CheckpointError, ConfigError, Interrupted
from moe_bench.guard import guarded
from moe_bench.probe.ridge import few_shot

TINY = ["--case", "16x32x4", "--images", "4", "--tokens", "8", "--group-images", "2", "--rounds", "2"]
Capture = pytest.CaptureFixture[str]


def test_alone_it_prints_its_usage_at_once_and_without_torch() -> None:
    script = (
        "import resource, sys; from moe_bench.cli import dispatch; code = dispatch(['bench']);"
        "spent = resource.getrusage(resource.RUSAGE_SELF);"
        "print(code, 'torch' in sys.modules, spent.ru_utime + spent.ru_stime < 3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False True\n"
    assert "moe-bench bench layers" in done.stderr
    assert "moe-bench bench routing" in done.stderr
    assert "moe-bench bench probe" in done.stderr


def measured(words: list[str], capsys: Capture) -> dict[str, Any]:
    assert cli.run([*words, *TINY, "--json", "-"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_layers_measures_every_router_solver_floor_and_the_dense_mlp(capsys: Capture) -> None:
    words = ["layers", "--no-peers", "--capacity", "1,2", "--solvers", "adam,sweeps", "--threads", "1"]
    document = measured(words, capsys)
    by_case: dict[float, list[str]] = {1.0: [], 2.0: []}
    for row in document["results"]:
        by_case[row["case"]["capacity"]].append(row["layer"])
    routers = [*(name for name in ROUTERS if name != "sparse_ec"), "sparse_ec adam", "sparse_ec sweeps", "dense MLP"]
    assert set(by_case[1.0]) == {*routers, "floor, 8 rows"}
    assert set(by_case[2.0]) == {*routers, "floor, 16 rows"}
    assert document["device"]["threads"] == 1
    assert document["complete"] is True


def test_every_number_of_a_layer_has_its_unit_and_is_told_with_its_rounds(capsys: Capture) -> None:
    document = measured(["layers", "--no-peers", "--routers", "softmax_ec,soft"], capsys)
    rows = {row["layer"]: row for row in document["results"]}
    assert (
        document["command"] == f"moe-bench bench layers --no-peers --routers softmax_ec,soft {' '.join(TINY)} --json -"
    )
    assert {"date", "versions", "git", "device", "python", "platform", "left_out"} <= set(document)
    for kind in ("forward", "train"):
        found = rows["softmax_ec"][kind]
        assert found["rounds"] == 2
        for figure in ("time_ms", "over_floor", "over_dense"):
            spread = found[figure]
            assert 0 < spread["q1"] <= spread["median"] <= spread["q3"]
        assert rows["floor, 8 rows"][kind]["over_floor"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
        assert rows["dense MLP"][kind]["over_dense"]["median"] == 1.0
        assert rows["dense MLP"][kind]["over_floor"] is None
    floor, layer = rows["floor, 8 rows"], rows["softmax_ec"]
    extra = layer["train_peak_bytes"] - floor["train_peak_bytes"]
    assert layer["train_peak_beyond_floor_bytes"] == extra
    assert layer["expert_flops"] == 4 * 16 * 32 * 4 * layer["rows_per_expert"] == rows["dense MLP"]["expert_flops"]


def test_routing_measures_every_part_of_every_router(capsys: Capture) -> None:
    document = measured(["routing", "--solvers", "sweeps"], capsys)
    parts: dict[str, set[str]] = {}
    for row in document["results"]:
        parts.setdefault(row["router"], set()).add(row["part"])
        assert row["time_us"]["median"] > 0
        assert row["over_dense"]["median"] > 0
    every = {"affinity", "choice", "both", "router", "dispatch", "combine"}
    for router in ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec sweeps"):
        assert parts[router] == every
    assert parts["soft"] == {"router", "dispatch", "combine"}
    assert parts["gate (XW)"] == {"router"}
    assert parts["sinkhorn on logarithms"] == {"affinity"}


PROBE = ["probe", "--train", "60", "--test", "80", "--width", "12", "--classes", "6", "--draws", "2", "--rounds", "2"]


def test_probe_measures_ours_its_products_and_scikit_learn_on_one_job(capsys: Capture) -> None:
    assert cli.run([*PROBE, "--json", "-"]) == 0
    rows = {row["job"]: row for row in json.loads(capsys.readouterr().out)["results"]}
    assert tuple(rows) == PROBE_JOBS
    for row in rows.values():
        assert row["rounds"] == 2
        assert 1 < row["products"] < row["penalties"] == 30
        assert row["accuracy_difference"] <= 1.01 / 80  # scikit-learn's is float32: an example may fall the other way
        for figure in ("time_s", "over_products", "over_fewest_products", "over_scikit_learn"):
            assert 0 < row[figure]["q1"] <= row[figure]["median"] <= row[figure]["q3"]
    assert rows[EACH]["over_products"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    assert rows[OURS]["peak_bytes"] is not None


def test_the_table_of_the_probe_has_a_line_for_each_job(capsys: Capture) -> None:
    assert cli.run(PROBE) == 0
    out = capsys.readouterr().out
    assert "2 draws of 60 × 12 · 80 tested · 6 classes · float32 · 2 rounds" in out
    assert [line for job in PROBE_JOBS for line in out.splitlines() if line.startswith(f"{job}  ")]
    assert re.search(r"^\d+ products for 30 λ · moe-bench, all λ: [\d.]+ MB at its peak", out, re.MULTILINE)


def test_the_job_of_scikit_learn_is_ours() -> None:
    """Over random features: the same accuracy for every λ, which is neither chance nor perfect."""
    draws, test = probe._examples(ProbeCase(train=120, test=300, width=16, classes=6, draws=1))
    ours, theirs = few_shot(*draws[0], *test), probe._scikit_learn(draws[0], test, 6)
    assert float((ours - theirs).abs().max()) <= 1.01 / 300
    assert 1 / 6 + 0.05 < float(ours.max()) < 1


@pytest.mark.parametrize("verb", ["layers", "routing"])
def test_the_table_is_plain_text_in_a_pipe_with_the_case_and_the_machine(verb: str, capsys: Capture) -> None:
    assert cli.run([verb, *TINY, "--routers", "sinkhorn_ec,soft", "--dtype", "float32,bf16"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert re.search(r" \(cpu\) · \d+ threads? · torch \d+\.\d+\S* · \d{4}-\d\d-\d\d$", out.splitlines()[0])
    for dtype in ("float32", "bf16"):
        assert f"16x32x4 (width × hidden × experts) · 4 images × 8 tokens in groups of 2 · capacity 1 · {dtype}" in out
    (line, *_) = (line for line in out.splitlines() if line.startswith("sinkhorn_ec"))
    assert "…" not in line
    assert "(" in line


def test_json_in_a_file_comes_beside_the_table(tmp_path: Path, capsys: Capture) -> None:
    words = ["layers", *TINY, "--routers", "soft", "--no-peers"]
    assert cli.run([*words, "--json", str(tmp_path / "a.json")]) == 0
    assert f"written: {tmp_path / 'a.json'}" in capsys.readouterr().out
    assert {row["layer"] for row in json.loads((tmp_path / "a.json").read_text())["results"]} >= {"soft", "dense MLP"}
    with pytest.raises(ConfigError, match="there is no folder"):
        cli.run([*words, "--json", str(tmp_path / "nowhere" / "a.json")])
    with pytest.raises(CheckpointError, match="cannot write"):
        cli.run([*words, "--json", str(tmp_path)])


def test_progress_and_what_is_not_installed_go_to_stderr(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "version", lambda package: None)
    assert cli.run(["layers", *TINY, "--routers", "softmax_ec", "--json", "-"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith("left out, as not installed: soft-moe-pytorch, soft-mixture-of-experts, ")
    assert "pip install 'moe-bench[peers]'" in told.err
    assert "GFLOP" in told.err.splitlines()[-1]
    assert json.loads(told.out)["complete"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layers", "--routers", "softmax_ek"], "did you mean softmax_ec"),
        (["layers", "--case", "768x"], "--case 768x3072x32"),
        (["layers", "--case", "64x64x4096"], "an expert needs at least 1"),
        (["routing", "--solvers", "newton"], "adam, sweeps, dual"),
        (["layers", "--case", "65536x262144x4096", "--tokens", "4096"], "are free"),
        (["probe", "--train", "5", "--classes", "6"], "6 classes need at least as many examples"),
        (["probe", "--test", "999999999", "--classes", "1000"], "are free"),
        (["layers", "--frobnicate"], "--help"),
        (["layer"], "layers"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_two(words: list[str], said: str, capsys: Capture) -> None:
    assert guarded(lambda: cli.run(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("moe-bench: ")
    assert said in error
    assert len(error.splitlines()) == 1


def test_every_command_of_the_page_and_of_the_help_can_be_typed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    commands = re.findall(r"moe-bench bench ((?:layers|routing|probe)[^`#\n]*)", page + cli.EXAMPLES)
    assert len(commands) > 8
    for command in commands:
        cli.make_parser().parse_args(command.rsplit("  ", 1)[0].split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="Use --device cpu"):
        cli.run(["layers", *TINY, "--device", "cuda"])


def interrupt_after(calls: int, failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock fails once so many calls are timed."""
    count = 0

    def failing(call: Any) -> float:
        nonlocal count
        count += 1
        if count > calls:
            raise failure
        return machine.stopwatch(call)

    monkeypatch.setattr(layers, "clock", lambda device: failing)


def test_ctrl_c_prints_what_was_measured_so_far(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    words = ["layers", *TINY, "--routers", "softmax_ec", "--no-peers"]  # 3 calls a round, 2 rounds of warm-up
    interrupt_after(3 * 3 + 1, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(Interrupted) as caught:
        cli.run([*words, "--json", "-"])
    assert caught.value.exit_code == EXIT_SIGINT
    document = json.loads(capsys.readouterr().out)
    row = document["results"][0]
    assert document["complete"] is False
    assert (row["forward"]["rounds"], row["train"]["rounds"]) == (1, 0)
    assert row["train"]["time_ms"] is None
    assert row["train_peak_bytes"] is None


def test_running_out_of_memory_is_told_after_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    interrupt_after(3 * 4, torch.OutOfMemoryError("CUDA out of memory"), monkeypatch)
    words = ["layers", *TINY, "--routers", "softmax_ec", "--no-peers"]
    with pytest.raises(ConfigError, match="Use fewer --images"):
        cli.run(words)
    out = capsys.readouterr().out
    assert " · 2 forward and 0 training rounds" in out
    assert "softmax_ec" in out


def test_a_bug_in_a_layer_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(0, RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes"):
        cli.run(["layers", *TINY, "--no-peers"])


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    cli.run(["routing", *TINY, "--threads", str(before + 1), "--routers", "softmax_ec"])
    assert torch.get_num_threads() == before
