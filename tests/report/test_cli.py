from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.report.cli import run
from moe_bench.report.collect import collect
from moe_bench.report.listing import listing

from .runs import add_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    add_run(root, "soft", prec1=0.812)
    add_run(root, "softmax_ec", state="running")
    add_run(root, "sparse_ec", state="diverged", reason="loss is nan at step 120")
    return root


def test_ls_has_one_line_a_run_and_the_running_one_last(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    by_state = {line.split()[1]: line.split() for line in lines[1:4]}
    assert set(by_state) == {"finished", "running", "diverged"}
    assert "81.2" in by_state["finished"]
    assert lines[3].split()[1:] == ["running", "120/600", "1", "min", "35", "s", "left", "–", "–"]
    assert lines[-1].startswith("3 runs: ")


def test_ls_never_cuts_a_name(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    run(["ls", str(runs)])
    out = capsys.readouterr().out
    assert all(path.name in out for path in runs.iterdir())


def test_ls_puts_a_name_above_its_facts_where_a_terminal_is_narrow(runs: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system=None)
    for line in listing(collect(runs), console):
        console.print(line, soft_wrap=True)
    lines = out.getvalue().splitlines()
    assert lines[0] == "run"
    assert lines[1].split() == ["state", "step", "when", "prec@1", "digits", "10-shot"]
    for name in (path.name for path in runs.iterdir()):
        assert lines[lines.index(name) + 1].split()[0] in ("finished", "running", "diverged")
    assert max(map(len, lines)) <= 60


def test_ls_shows_ten_shots_also_where_a_run_has_fewer_and_more(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(runs, "dense", **{f"probe/digits/{shots}shot": shots / 100 for shots in (5, 10, 25)})
    run(["ls", str(runs)])
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[-2:] == ["digits", "10-shot"]
    assert any("91.2" in line for line in lines)
    assert any("10.0" in line for line in lines)


@pytest.mark.parametrize("verb", ["ls", "report"])
def test_a_missing_folder_says_what_to_type(verb: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"`moe-bench {verb} DIR`"):
        run([verb, str(tmp_path / "none")])


def test_report_prints_the_table_and_writes_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(runs)]) == 0
    out = capsys.readouterr().out
    page = (runs / "report" / "report.md").read_text()
    for text in (out, page):
        assert "81.2" in text
        assert "diverged at step 120 of 600: loss is nan" in " ".join(text.replace("\\", "").split())
    assert (runs / "report" / "report.csv").read_text().startswith("section,")
    assert run(["ls", str(runs)]) == 0  # the report's own folder is no run
    assert "3 runs" in capsys.readouterr().out


def test_report_goes_where_it_is_told_and_leaves_the_runs_alone(runs: Path, tmp_path: Path) -> None:
    before = sorted(runs.rglob("*"))
    assert run(["report", str(runs), "--out", str(tmp_path / "out"), "--paper"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["figures", "files.txt", "findings.json", "report.csv", "report.html", "report.md", "tables"]
    assert "JFT-300M" in (tmp_path / "out" / "report.md").read_text()
    assert sorted(runs.rglob("*")) == before


def test_a_report_clears_away_tables_of_the_one_before_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    add_run(runs, "soft", "b32")
    run(["report", str(runs), "--out", str(out)])
    (out / "tables" / "mine.csv").write_text("a user's")
    (out / "files.txt").open("a").write("tables/../../precious.csv\n")
    (tmp_path / "precious.csv").write_text("a user's")
    for folder in runs.glob("soft-b32-*"):
        shutil.rmtree(folder)
    run(["report", str(runs), "--out", str(out)])
    names = {path.name for path in (out / "tables").iterdir()}
    assert {"tiny-upstream.csv", "mine.csv"} <= names
    assert not [name for name in names if "b32" in name]
    assert (tmp_path / "precious.csv").exists()


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="--out DIR"):
        run(["report", str(runs), "--out", str(tmp_path / "file")])


def test_damaged_files_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (add_run(runs, "dense") / "summary.json").write_text('{"router"')
    for verb in ("ls", "report"):
        assert run([verb, str(runs)]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "1 damaged file passed over: dense-" in out


@pytest.mark.parametrize("verb", ["ls", "report"])
def test_no_runs_is_said_with_what_to_type(verb: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Train one: `moe-bench"):
        run([verb, str(tmp_path)])
    with pytest.raises(ConfigError, match="no folder"):
        run([verb, str(tmp_path / "nowhere")])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_is_an_error_of_usage() -> None:
    with pytest.raises(ConfigError, match="--nonsense"):
        run(["ls", "--nonsense"])


def test_ls_has_no_flag_of_report() -> None:
    with pytest.raises(ConfigError, match=r"unrecognized arguments: --paper=3\. All options: moe-bench ls --help"):
        run(["ls", "runs", "--paper=3"])


def imported_by(verb: str, runs: Path) -> set[str]:
    script = (
        f"import sys; from moe_bench.report.cli import run; run([{verb!r}, {str(runs)!r}]);"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    )


def test_ls_needs_neither_torch_nor_what_draws_and_reckons(runs: Path) -> None:
    heavy = {"torch", "lightning", "hydra", "omegaconf", "wandb", "matplotlib", "numpy", "scipy"}
    assert not heavy & imported_by("ls", runs)


def test_a_report_needs_no_torch(runs: Path) -> None:
    assert not {"torch", "lightning", "hydra", "omegaconf", "wandb"} & imported_by("report", runs)


def test_settings_of_which_no_run_has_finished_have_no_table_but_are_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = {"recipe": {"steps": 900, "batch": 128}}
    add_run(runs, "hash", state="killed", config=longer, science={"recipe.steps": 900})
    assert run(["report", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "\ndigits, 900 steps" not in f"\n{out}"
    assert "digits, 600 steps" in out
    assert "Not counted: hash-tiny" in out
