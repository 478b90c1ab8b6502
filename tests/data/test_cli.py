from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moe_bench.data.cli import run
from moe_bench.errors import ConfigError, DataError
from tests.data.shards import write_shards
from tests.data.test_make import photos


def test_index_prints_a_row_for_every_split_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, [5, 4], classes=3)
    write_shards(tmp_path, [3], split="val", classes=2)
    assert run(["index", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "split"
    assert lines[1].split() == ["train", "2", "9", "3", "of", "3", "0–2", "0.0", "0"]
    assert lines[2].split()[:3] == ["val", "1", "3"]
    assert lines[3] == f"written to {tmp_path}/index.json"


def test_index_takes_patterns_and_checks_the_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, [2, 2], classes=3)
    pattern = f"{tmp_path}/train-{{000000..000001}}.tar"
    assert run(["index", pattern, "--num-classes", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:6] == ["-", "2", "4", "3", "of", "3"]
    with pytest.raises(DataError, match="out of range for 2 classes"):
        run(["index", pattern, "--num-classes", "2"])


def test_make_writes_a_data_set_that_index_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = photos(tmp_path / "photos", {"cat": 4, "dog": 4})
    out = str(tmp_path / "pets")
    assert run(["make", "--folder", str(source), "--val-share", "0.25", "--out", out, "--per-shard", "2"]) == 0
    said = capsys.readouterr().out
    assert "train       3         6" in said
    assert f"moe-bench data=shards data.path={out}" in said
    assert run(["index", out]) == 0


@pytest.mark.parametrize(
    "options", [["--val-share", "1"], ["--per-shard", "0"], ["--split", "train", "--split", "val"]]
)
def test_impossible_options_are_told(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(ConfigError, match="--"):
        run(["make", "--folder", str(tmp_path), "--out", str(tmp_path / "out"), *options])


@pytest.mark.parametrize("words", [[], ["index"], ["make"], ["mend"], ["make", "--out", "x"]])
def test_wrong_words_exit_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(words)
    assert caught.value.code == 2
    assert "usage: moe-bench shards" in capsys.readouterr().err


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom moe_bench.data.cli import run\n"
        "try:\n    run(['--help'])\nexcept SystemExit:\n    sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0
    assert "examples:" in found.stdout
