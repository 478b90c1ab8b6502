"""``moe-bench evaluate`` as typed, on a real run of two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moe_bench.errors import ConfigError
from moe_bench.evaluation import cli
from moe_bench.evaluation.settings import Setting
from moe_bench.evaluation.table import NOTE, table
from moe_bench.guard import guarded
from tests.faults.command import TINY, moe_bench, only_run, read

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of softmax token choice, probed with all four numbers of shots under V-MoE's λ policy."""
    here = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert moe_bench("router=softmax_tc", "probe=fewshot", "probe.policy=best", *TINY) == 0
    return only_run(here)


def evaluated(folder: Path, *words: str) -> dict[str, Any]:
    assert cli.run([str(folder), "--workers", "0", *words]) == 0
    return read(folder / "evaluation.json")


def test_as_trained_gives_the_numbers_of_the_run(folder: Path, capsys: Capture) -> None:
    document, summary = evaluated(folder, "--capacity", "1"), read(folder / "summary.json")
    (row,) = document["settings"]
    assert row["prec1"] == pytest.approx(summary["val/prec1"], abs=1e-12)
    assert row["loss"] == pytest.approx(summary["val/loss"], rel=1e-6)
    assert (document["step"], document["pictures"], document["remarks"]) == (2, summary["val/count"], [])
    assert row["slots"] == summary["slots_per_expert"]


def test_the_table_the_json_and_the_file_say_the_same(folder: Path, capsys: Capture) -> None:
    words = ["--capacity", "0.5,2", "--one-image", "--orders", "1", "--probe"]
    document = evaluated(folder, *words, "--json")
    assert json.loads(capsys.readouterr().out) == document
    shown = [row["words"] for row in document["settings"]]
    assert shown[:3] == ["as trained", "capacity 0.5", "capacity 2"]
    assert "capacity 2, one image a group" in shown
    assert "capacity 0.5, other order 1" in shown
    text = table(document)
    few_shot = text[text.index("digits-single") :]
    for row in document["settings"]:
        assert f"{100 * row['prec1']:.2f} %" in text
        assert bool(row["probe"]) == (row["order"] == 0)
        for one in row["probe"]:
            assert (" ± " in few_shot) is (one["protocol"]["draws"] > 1)
            assert f"{100 * one['accuracy']:.1f}" in few_shot
    assert "digits-single" in text
    assert document["command"].startswith("moe-bench evaluate ")


def test_few_shot_scores_as_trained_are_those_of_the_run(folder: Path, capsys: Capture) -> None:
    document, summary = evaluated(folder, "--capacity", "1", "--probe"), read(folder / "summary.json")
    assert [one["shots"] for one in document["settings"][0]["probe"]] == [1, 5, 10, 25]
    for one in document["settings"][0]["probe"]:
        name = f"probe/{one['dataset']}/{one['shots']}shot"
        assert (one["accuracy"], one["std"]) == pytest.approx((summary[name], summary[f"{name}/std"]))
        assert one["l2"] == summary[f"{name}/l2"]


def test_another_prec1_than_the_runs_is_told(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    summary = read(folder / "summary.json")
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"val/prec1": 0.5}))
    (remark,) = cli._remarks(tmp_path, summary["steps"], summary["val/prec1"], summary["val/count"])
    assert "summary.json says 50.00 %" in remark
    assert cli._remarks(tmp_path, summary["steps"] - 1, summary["val/prec1"], summary["val/count"]) == []


def test_where_the_numbers_cannot_be_written_nothing_is_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = Path(shutil.copytree(folder, tmp_path / folder.name))
    (run / ".writable").mkdir()  # in the place of what is written there to see whether it can be; also for root
    monkeypatch.setattr(cli, "_evaluate", pytest.fail)
    assert guarded(lambda: cli.run([str(run)])) == 4
    error = capsys.readouterr().err
    assert f"Cannot write in the folder {run}" in error
    assert "where it stopped" not in error


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_table_whose_file_cannot_be_written_is_not_lost(
    folder: Path, tmp_path: Path, words: list[str], capsys: Capture
) -> None:
    run = Path(shutil.copytree(folder, tmp_path / folder.name))
    (run / cli.NAME).unlink(missing_ok=True)  # of a test before this one
    (run / cli.NAME).mkdir()  # in the place of the file, also for root
    assert guarded(lambda: cli.run([str(run), "--capacity", "1", "--workers", "0", *words])) == 4
    told = capsys.readouterr()
    assert "as trained" in told.out
    assert cli.NAME in told.err


ROW = {"words": "as trained", "slots": None, "prec1": 0.25, "loss": 1.0, "change": None, "probe": []}
ABOUT = {"run_id": "r", "router": "dense", "step": 1, "pictures": 4, "bad": 0, "remarks": []}


def test_one_reason_against_several_settings_is_said_once() -> None:
    refused = [{"setting": f"capacity {c}", "why": "its slots are learned"} for c in (0.5, 2, 4)]
    other = {"setting": "one image a group", "why": "every image is alone already"}
    row = ROW | vars(Setting(1.0, 1, None)) | {"slots": 2}
    text = table({**ABOUT, "router": "soft", "settings": [row], "refused": [*refused, other]})
    assert text.splitlines()[-2:] == [
        "not measured: capacity 0.5; capacity 2; capacity 4: its slots are learned",
        "not measured: one image a group: every image is alone already",
    ]


def test_the_page_shows_each_line_that_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert NOTE in " ".join(page.split())
    assert "\nwritten: RUN/evaluation.json\n" in page


def test_one_line_of_dense_says_that_there_is_nothing_to_vary() -> None:
    refused = [{"setting": "everything else", "why": "a dense model has no router: there is nothing to vary"}]
    text = table({**ABOUT, "settings": [ROW | vars(Setting(1.0, 8, None))], "refused": refused})
    assert "as trained: dense" in text
    assert text.endswith("there is nothing to vary")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 2, "there is no folder nowhere. `moe-bench ls` shows the runs"),
        (["RUN", "--k", "9"], 2, "among 4 experts"),
    ],
)
def test_a_mistake_is_one_message(folder: Path, words: list[str], code: int, said: str, capsys: Capture) -> None:
    assert guarded(lambda: cli.run([str(folder) if word == "RUN" else word for word in words])) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [["--capacity", "0"], ["--capacity", "1,x"], ["--orders", "-1"], ["--batch", "0.5"]])
def test_a_number_that_cannot_be_is_refused_by_its_option(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"argument {words[0]}: .* wanted, not"):
        cli.run(["somewhere", *words])
