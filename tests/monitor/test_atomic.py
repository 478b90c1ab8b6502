from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from moe_bench.errors import CheckpointError
from moe_bench.monitor.atomic import make_writable, plain, read_json, write_json


@dataclass(frozen=True)
class Point:
    x: float


def test_values_become_what_json_can_hold() -> None:
    value = {"a": (1, 2.5), "b": Path("x"), "c": Point(1.0), "d": torch.tensor(2.0), "e": np.int64(3), 4: None}
    assert plain(value) == {"a": [1, 2.5], "b": "x", "c": {"x": 1.0}, "d": 2.0, "e": 3, "4": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_what_is_not_finite_becomes_null(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "x.json", {"loss": value})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == {"loss": None}


def test_an_object_of_another_kind_is_a_bug_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_a_refusing_file_system_is_named_and_leaves_no_rest(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()  # a folder in the place of the file: the rename fails, also for root
    with pytest.raises(CheckpointError, match=r"x\.json") as told:
        write_json(tmp_path / "x.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert "was there before" not in str(told.value)


def test_a_file_that_could_not_be_replaced_is_said_to_be_whole_only_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "old.json", {"a": 1})
    monkeypatch.setattr(os, "replace", full)
    for name, said in (("old.json", True), ("new.json", False)):
        with pytest.raises(CheckpointError, match=r"No space left on device; .* free there") as told:
            write_json(tmp_path / name, {})
        assert ("The file that was there before is intact" in str(told.value)) == said
    assert read_json(tmp_path / "old.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize("place", ["file/x", "file/x/y"])
def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"Cannot make the folder .* Not a directory\. Go elsewhere"):
        make_writable(tmp_path / place, parents=True, remedy="Go elsewhere")


def test_a_folder_is_made_with_its_parents_where_that_is_asked_for(tmp_path: Path) -> None:
    make_writable(tmp_path / "a" / "b", parents=True)
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(CheckpointError, match="No such file or directory"):
        make_writable(tmp_path / "c" / "d")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff\xfe"])
def test_a_torn_file_reads_as_absent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") is None
    assert read_json(tmp_path / "missing.json") is None
