"""The command moe-bench, as typed, in processes of its own."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

from moe_bench import cli, config, guard
from moe_bench.errors import ConfigError, DataError
from moe_bench.usage import GROUPS

RUN_AND_TELL = """
import sys
from moe_bench.cli import main
sys.argv = ["moe-bench", *sys.argv[1:]]
code = main()
heavy = [name for name in ("torch", "lightning", "wandb", "numpy") if name in sys.modules]
print("HEAVY", heavy, file=sys.stderr)
sys.exit(code)
"""


def moe_bench(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command; what it imported is told on stderr."""
    command = [sys.executable, "-c", RUN_AND_TELL, *words]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job", "router=sinkhorn_ec", "model=b16", "capacity=2"], 0),
        (["capcity=2", "router=sinkorn_ec"], 2),
        (["-m", "capacity=1,2", "router=soft,dens"], 2),
        (["--frobnicate"], 2),
        (["lss"], 2),
        (["probe._target_=os.system"], 9),
    ],
)
def test_help_settings_and_mistakes_load_nothing_heavy_and_leave_nothing(
    words: list[str], code: int, tmp_path: Path
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = moe_bench(*words, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    assert "HEAVY []" in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout != "") == (code == 0)
    assert list(tmp_path.iterdir()) == []
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # free of what else the machine does
    assert spent < 3.0  # well under one on a quiet machine; torch alone takes more than this


def test_help_lists_every_group_option_verb_and_examples_that_are_right(tmp_path: Path) -> None:
    text = moe_bench("--help", cwd=tmp_path).stdout
    for verb in cli.VERBS:
        assert f"{verb}: " in text
    for group, _ in GROUPS:
        assert f"\n  {group}: " in text
    assert "  * softmax_ec " in text
    assert "    sinkhorn_ec " in text
    examples = [line.split("  ")[1] for line in text.split("Examples")[1].split("Groups")[0].splitlines() if line]
    for example in examples:
        words = [word.replace("DIR", "/data") for word in example.split()[1:]]
        if words[:1] in (["report"], ["sync"], ["doctor"]) or "--cfg" in words:
            continue
        args = cli.parse(words)
        cli.plan(args)


def test_settings_are_shown_in_full_with_the_run_folder(tmp_path: Path) -> None:
    shown = moe_bench("--cfg", "job", "capacity=1.5", "router=soft", "--package", "capacity", cwd=tmp_path).stdout
    run = config.load(["capacity=1.5", "router=soft"])
    assert shown.splitlines()[0] == f"# runs/{config.run_id(run)}"
    assert "factor: 1.5\nrounding: nearest\n" in shown


def test_a_folder_of_ones_own_yaml_is_found_from_any_directory(tmp_path: Path) -> None:
    (tmp_path / "own" / "router").mkdir(parents=True)
    (tmp_path / "own" / "router" / "mine.yaml").write_text("# Mine alone\nname: mine\nimpl: a.b:C\n")
    (tmp_path / "empty").mkdir()
    words = ["--config-dir", "../own", "--cfg", "job", "-p", "router", "router=mine"]
    assert "impl: a.b:C" in moe_bench(*words, cwd=tmp_path / "empty").stdout
    assert "Mine alone" in moe_bench("--help", cwd=tmp_path, MOE_BENCH_CONF="own").stdout


def test_shell_completion_offers_options(tmp_path: Path) -> None:
    query = moe_bench("-sc", "query=bash", cwd=tmp_path, COMP_LINE="moe-bench router=s")
    assert {"router=soft", "router=sinkhorn_ec"} <= set(query.stdout.split())
    assert "complete -o nospace" in moe_bench("-sc", "install=bash", cwd=tmp_path).stdout


def test_what_hydra_refuses_is_a_message_and_not_a_traceback(tmp_path: Path) -> None:
    done = moe_bench("--cfg", "hydra", "router=nonsense", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("moe-bench: ")
    assert "Traceback" not in done.stderr


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["--version"]) == 0
    assert capsys.readouterr().out == "moe-bench 0.1.0\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("reprot", "`moe-bench report`"),
        ("fly", ", ".join(cli.VERBS)),
        ("router", "type router=dense"),
        ("soft", "`moe-bench router=soft`"),
    ],
)
def test_an_unknown_verb_is_met_with_a_known_one(typed: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"no verb '{typed}'") as caught:
        cli.dispatch([typed])
    assert said in str(caught.value)


@pytest.mark.parametrize(("typed", "flag"), [("--dryrun", "--dry-run"), ("--config_dir=own", "--config-dir")])
def test_a_misspelt_flag_is_met_with_a_known_one(typed: str, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{typed}. Did you mean {flag}\\?"):
        cli.parse(["router=soft", typed])


def test_a_flag_like_no_other_has_no_advice() -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(["--xyzzy"])
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("typed", ["", "-", "="])
def test_a_slip_of_the_keyboard_is_a_problem_and_no_bug(typed: str) -> None:
    with pytest.raises(ConfigError, match="1 problem"):
        cli.dispatch([typed, "router=soft"])


@pytest.mark.parametrize(
    "words",
    [["router=soft", "-m", "seed=1,2"], ["-m", "router=soft", "seed=1,2"], ["router=soft", "seed=1,2", "--multirun"]],
)
def test_flags_may_stand_anywhere(words: list[str]) -> None:
    args = cli.parse(words)
    assert (args.multirun, args.overrides) == (True, ["router=soft", "seed=1,2"])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[config.Config, list[str]]]:
    """What would be trained: only the last call is taken out."""
    calls: list[tuple[config.Config, list[str]]] = []
    fake = types.ModuleType("moe_bench.train")
    fake.run = lambda cfg, overrides, rank: calls.append((cfg, overrides))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moe_bench.train", fake)
    return calls


def test_a_command_trains_what_it_says(
    trained: list[tuple[config.Config, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["moe-bench", "router=sinkhorn_ec", "model=b16", "capacity=2"])
    assert cli.main() == 0
    [(cfg, overrides)] = trained
    assert (cfg.router.name, cfg.model.name, cfg.capacity.factor) == ("sinkhorn_ec", "b16", 2.0)
    assert overrides == ["router=sinkhorn_ec", "model=b16", "capacity='2'"]
    assert sys.argv[1:] == overrides, "ranks read it again"
    assert cli.main() == 0
    assert trained[1] == trained[0]


@pytest.mark.parametrize(("failure", "code"), [(DataError("shard 3 is missing"), 3), (KeyboardInterrupt(), 130)])
def test_a_failure_is_its_message_and_its_exit_code(
    failure: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise failure

    assert guard.guarded(fail) == code
    error = capsys.readouterr().err
    assert error.startswith("moe-bench: ")
    assert "Traceback" not in error


def test_a_bug_keeps_its_traceback_in_the_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise ZeroDivisionError("by zero")

    assert guard.guarded(fail, folder=tmp_path) == 1
    assert "ZeroDivisionError: by zero" in capsys.readouterr().err
    assert "Traceback" in (tmp_path / "traceback.txt").read_text()
    monkeypatch.setenv(guard.DEBUG_VARIABLE, "1")
    guard.guarded(fail, folder=tmp_path)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["estimate"]])
def test_output_into_a_full_disk_is_told_as_that_and_no_bug(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moe_bench", *words]
    with open("/dev/full", "w") as full:
        found = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 4
    assert found.stderr == "moe-bench: what is printed cannot be written: No space left on device\n"


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m moe_bench --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("moe-bench 0.1.0")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["report", "--papr"], "--paper? All options: moe-bench report --help"),
        (["evaluate", "runs/x", "--capacitys", "1"], "--capacity? All options: moe-bench evaluate --help"),
        (["shards", "index", "x", "--lables=multi"], "--labels? All options: moe-bench shards --help"),
        (["probe", "runs/x", "--shts", "1,5"], "--shots? All options: moe-bench probe --help"),
        (["explain", "router"], "`moe-bench explain routers`?"),
    ],
)
def test_a_word_typed_wrong_after_a_verb_is_met_with_the_one_that_is_meant(words: list[str], meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cli.dispatch(words)
    assert str(refused.value).endswith(f"Did you mean {meant}")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.dispatch([verb, "--help"])
    assert caught.value.code == 0
    assert verb in capsys.readouterr().out


def test_launchers_of_hydra_are_given_checked_settings(
    trained: list[tuple[config.Config, list[str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["moe-bench", "-m", "hydra/launcher=basic", "seed=1,2", "capacity=1.5"])
    log = logging.getLogger("moe_bench.training.store")
    assert cli.main() == 0
    assert [(cfg.seed, cfg.capacity.factor) for cfg, _ in trained] == [(1, 1.5), (2, 1.5)]
    assert log.isEnabledFor(logging.WARNING), "a damaged checkpoint is told under Hydra's launchers too"
