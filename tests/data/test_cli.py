from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from moe_bench.data.cli import run
from moe_bench.data.index import open_split
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


@pytest.mark.parametrize("workers", ["0", "2"])
def test_verify_decodes_every_picture_and_names_each_that_is_damaged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: str
) -> None:
    write_shards(tmp_path, [5, 80])
    write_shards(tmp_path, [3], split="val")
    assert run(["verify", str(tmp_path), "--workers", workers]) == 0
    said = capfd.readouterr()
    assert said.out == "all 88 pictures can be decoded\n"
    assert "decoding train: 85 of 85 pictures\n" in said.err
    damaged = {("train-000000.tar", 2): "k2", ("train-000001.tar", 79): "k84", ("val-000000.tar", 0): "k0"}
    for shard, picture in damaged:
        damage(tmp_path / shard, picture)
    with pytest.raises(DataError, match=r"3 of 88 pictures are damaged"):
        run(["verify", str(tmp_path), "--workers", workers])
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        f"{tmp_path}/{shard}:{key}" for (shard, _), key in damaged.items()
    ]
    assert all("is not a whole JPEG, PNG or WebP picture: " in line for line in lines)


def test_verify_finds_a_label_that_is_not_the_one_that_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pets"
    run(["make", "--folder", str(photos(tmp_path / "photos", {"cat": 4, "dog": 4})), "--out", str(out)])
    assert run(["verify", str(out), "--workers", "0"]) == 0
    shard = out / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    label = (data.index(b".cls") // 512 + 1) * 512
    data[label] ^= 1  # 0 to 1 or back
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"train-000000\.tar is not as it was made: sha256"):
        run(["verify", str(out), "--workers", "0"])


def damage(shard: Path, picture: int) -> None:
    """Overwrite the middle of one picture with zeros."""
    index = open_split([str(shard)], progress=False)
    first, size = int(index.offsets[picture]), int(index.sizes[picture])
    with shard.open("r+b") as file:
        file.seek(first + size // 2)
        file.write(bytes(size // 2))


def test_a_picture_beyond_the_limit_counts_as_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, [2])
    with pytest.raises(DataError, match="2 of 2"):
        run(["verify", str(tmp_path), "--max-pixels", "3", "--workers", "0"])
    assert "more than data.max_pixels=3" in capsys.readouterr().out


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


@pytest.mark.parametrize("words", [["index"], ["make"], ["mend"], ["make", "--out", "x"]])
def test_wrong_words_are_told_with_where_the_right_ones_stand(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"All options: moe-bench shards .*--help"):
        run(words)


def test_alone_it_prints_its_help_and_exits_with_two_as_other_verbs_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    printed = capsys.readouterr()
    assert (printed.out, "moe-bench shards verify DIR" in printed.err) == ("", True)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom moe_bench.data.cli import run\n"
        "try:\n    run(['--help'])\nexcept SystemExit:\n    sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0
    assert "examples:" in found.stdout
