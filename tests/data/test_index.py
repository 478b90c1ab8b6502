from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from moe_bench.data import index as indexing
from moe_bench.data.index import open_split
from moe_bench.data.sources import split_of
from moe_bench.data.summary import write_summary
from moe_bench.errors import DataError
from tests.data.shards import member, picture, sample, write_shards, write_tar


def test_pictures_are_numbered_in_the_order_of_shards_and_members(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [2, 1, 3], classes=4)
    index = open_split([paths[2], *paths[:2]], progress=False)
    assert len(index) == 6
    assert index.counts.tolist() == [3, 2, 1]
    assert [index.key(n) for n in range(6)] == ["k3", "k4", "k5", "k0", "k1", "k2"]
    assert index.labels.tolist() == [[3], [0], [1], [0], [1], [2]]
    assert index.name(3) == f"{paths[0]}:k0"
    assert index.num_classes == 4


def test_a_table_takes_sixteen_bytes_a_picture(tmp_path: Path) -> None:
    index = open_split(write_shards(tmp_path, [4, 4]), progress=False)
    columns = (index.offsets, index.sizes, index.labels)
    assert sum(column.nbytes for column in columns) == 16 * len(index)


def test_a_second_look_reads_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path, [2, 2])
    first = open_split(paths, progress=False)
    monkeypatch.setattr(indexing, "read_records", None)
    again = open_split(paths, progress=False)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.offsets, first.offsets)


def test_a_damaged_table_in_the_cache_is_made_again(tmp_path: Path, cache: Path) -> None:
    paths = write_shards(tmp_path, [2])
    first = open_split(paths, progress=False)
    [table] = (cache / "index").glob("*.npz")
    for damage in (b"", table.read_bytes()[:100], b"x" * 500):
        table.write_bytes(damage)
        assert open_split(paths, progress=False).fingerprint == first.fingerprint


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    here, there, other = (
        open_split(write_shards(tmp_path / name, [3], classes=classes), progress=False).fingerprint
        for name, classes in (("a", 5), ("b", 5), ("c", 2))
    )
    assert here == there != other


def test_labels_are_read_again_when_they_are_asked_for_otherwise(tmp_path: Path) -> None:
    text = json.dumps({"a": 1, "b": [2, 3]}).encode()
    path = str(write_tar(tmp_path / "s.tar", [member("k.png", picture()), member("k.json", text)]))
    assert open_split(path, label_key="a", progress=False).labels.tolist() == [[1]]
    assert open_split(path, label_key="b", labels="multi", progress=False).labels.tolist() == [[2, 3]]


def test_a_label_out_of_range_names_the_picture_and_the_range(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [5], classes=5)
    index = open_split(paths, progress=False)
    with pytest.raises(
        DataError, match=r"000000\.tar:k3 has the label 3, out of range for 3 classes \(0 to 2\).* 2 of 5"
    ):
        index.check_labels(3)
    (tmp_path / "meta.json").write_text('{"num_classes": 4}')
    with pytest.raises(DataError, match=":k4 has the label 4"):
        open_split(paths, progress=False)
    (tmp_path / "meta.json").write_text('{"num_classes": 9}')
    assert open_split(paths, progress=False).num_classes == 9


def test_shards_that_contradict_meta_json_are_named_with_both_numbers(tmp_path: Path) -> None:
    [path] = write_shards(tmp_path, [3])
    entry = {"file": Path(path).name, "samples": 4, "bytes": os.path.getsize(path)}
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"splits": {"train": {"shards": [entry]}}}))
    with pytest.raises(DataError, match=r"has 3 pictures and meta\.json says 4"):
        open_split(split_of(tmp_path, "train"), progress=False)
    meta.write_text(json.dumps({"splits": {"train": {"shards": [entry | {"bytes": 7}]}}}))
    with pytest.raises(DataError, match=r"bytes and meta\.json says 7"):
        open_split(split_of(tmp_path, "train"), progress=False)


def test_the_first_fault_of_many_shards_stops_and_is_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [2] * 5)
    write_tar(Path(paths[3]), sample("a", "cat"))
    with pytest.raises(DataError, match=r"train-000003\.tar:a has a \.cls"):
        open_split(paths, progress=False)


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_shards(tmp_path, [1, 1])
    open_split(paths)
    assert capsys.readouterr().err == "reading shards: 2 of 2 shards\n"
    open_split(paths)
    assert capsys.readouterr().err == ""


def test_a_summary_gathers_the_shards_beside_them(tmp_path: Path) -> None:
    write_shards(tmp_path, [5, 2], classes=5)
    write_shards(tmp_path, [3], split="val", classes=2)
    for split in ("train", "val"):
        place = write_summary(open_split(split_of(tmp_path, split), progress=False))
    shards = json.loads(place.read_text())["shards"]
    assert place == tmp_path / "index.json"
    assert list(shards) == ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    assert shards["train-000001.tar"] | {"bytes": 0} == {"samples": 2, "bytes": 0, "labels": [0, 1], "classes": 2}


def test_a_summary_of_a_folder_without_write_bits_goes_to_the_cache(tmp_path: Path, cache: Path) -> None:
    index = open_split(write_shards(tmp_path / "set", [1]), progress=False)
    (tmp_path / "set").chmod(0o555)
    try:
        place = write_summary(index)
    finally:
        (tmp_path / "set").chmod(0o755)
    assert place.parent == cache / "index"
    assert not (tmp_path / "set/index.json").exists()


@pytest.mark.slow
def test_samples_are_indexed_fast(tmp_path: Path) -> None:
    """23,000 a second of one core; five times slower than the 10,000 that are asked for fails."""
    data = picture()
    members = [part for n in range(20_000) for part in sample(f"{n:08d}", n % 1000, data)]
    path = str(write_tar(tmp_path / "s.tar", members))
    start = time.process_time()
    open_split(path, progress=False)
    assert 20_000 / (time.process_time() - start) > 2_000


def test_ten_thousand_shards_are_looked_up_and_their_sizes_checked_at_once(tmp_path: Path) -> None:
    """In 0.2 s of one core; five times slower than the second that is allowed fails."""
    names = [f"train-{number:06d}.tar" for number in range(10_000)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    shards = [{"file": name, "bytes": 1, "samples": 1} for name in names[:-1]] + [{"file": names[-1], "bytes": 2}]
    (tmp_path / "meta.json").write_text(json.dumps({"splits": {"train": {"shards": shards}}}))
    start = time.process_time()
    with pytest.raises(DataError, match=r"train-009999\.tar has 1 bytes and meta\.json says 2"):
        open_split(split_of(tmp_path, "train"), progress=False)
    assert time.process_time() - start < 5
