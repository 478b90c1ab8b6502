from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import webdataset

from moe_bench.data.index import open_split
from moe_bench.data.make import from_folder, from_torchvision, write_dataset
from moe_bench.data.sources import split_of
from moe_bench.errors import CheckpointError, ConfigError, DataError
from tests.data.shards import picture


def photos(folder: Path, classes: dict[str, int]) -> Path:
    """A folder of class folders with pictures; the files of one class differ in format."""
    for number, (name, count) in enumerate(classes.items()):
        for n in range(count):
            form, suffix = (("JPEG", "JPG"), ("PNG", "png"), ("WEBP", "webp"))[n % 3]
            path = folder / name / f"photo {n}.v1.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(1000 * number + n, form=form))
    return folder


def test_a_folder_of_classes_becomes_shards_that_hold_the_files_as_they_are(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", {"cat": 4, "dog": 3})
    meta = write_dataset(tmp_path / "out", "pets", from_folder(source), per_shard=3)
    index = open_split(split_of(tmp_path / "out", "train"), progress=False)
    assert index.counts.tolist() == [3, 3, 1]
    assert sorted(index.labels[:, 0].tolist()) == [0] * 4 + [1] * 3
    assert [one["name"] for one in meta["classes"]] == ["cat", "dog"]
    shards = [Path(path).read_bytes() for path in index.paths]
    assert all(any(file.read_bytes() in shard for shard in shards) for file in source.rglob("photo*"))


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", {"a": 3, "b": 3})
    one, two = (write_dataset(tmp_path / name, "x", from_folder(source)) for name in ("one", "two"))
    assert one == two


def test_webdataset_itself_reads_what_is_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", "x", from_folder(photos(tmp_path / "photos", {"a": 3, "b": 3})))
    samples = list(webdataset.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False))
    assert sorted(sample["cls"] for sample in samples) == [b"0"] * 3 + [b"1"] * 3


def test_classes_are_mixed_within_shards(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", "x", from_folder(photos(tmp_path / "photos", {"a": 30, "b": 30})), per_shard=20)
    index = open_split(split_of(tmp_path / "out", "train"), progress=False)
    for labels in np.split(index.labels[:, 0], 3):
        assert 4 < labels.sum() < 16


def test_folders_of_splits_are_written_together_with_one_numbering_of_classes(tmp_path: Path) -> None:
    photos(tmp_path / "p/train", {"a": 2, "b": 2})
    photos(tmp_path / "p/val", {"b": 3})
    meta = write_dataset(tmp_path / "out", "x", from_folder(tmp_path / "p"))
    assert {split: part["samples"] for split, part in meta["splits"].items()} == {"train": 4, "val": 3}
    assert open_split(split_of(tmp_path / "out", "val"), progress=False).labels[:, 0].tolist() == [1, 1, 1]
    photos(tmp_path / "p/val", {"c": 1})
    with pytest.raises(DataError, match="class folder 'c', which the first split lacks"):
        from_folder(tmp_path / "p")


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    assert from_folder(photos(tmp_path / "vehicles", {"car": 1, "train": 1})).classes == ["car", "train"]


def test_a_share_of_each_class_is_set_apart(tmp_path: Path) -> None:
    source = photos(tmp_path / "p", {"a": 20, "b": 10})
    write_dataset(tmp_path / "out", "x", from_folder(source, val_share=0.2))
    train, val = (open_split(split_of(tmp_path / "out", split), progress=False) for split in ("train", "val"))
    assert np.bincount(val.labels[:, 0]).tolist() == [4, 2]
    assert np.bincount(train.labels[:, 0]).tolist() == [16, 8]


def test_a_split_is_added_and_never_overwritten(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "p", {"a": 2, "b": 1}), tmp_path / "out"
    write_dataset(out, "x", from_folder(source))
    meta = write_dataset(out, "x", from_folder(source, "test"))
    assert set(meta["splits"]) == {"train", "test"}
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match="already has train shards"):
        write_dataset(out, "x", from_folder(source))
    other = photos(tmp_path / "q", {"a": 1, "z": 1})
    with pytest.raises(ConfigError, match="of 2 classes, not of these 2"):
        write_dataset(out, "x", from_folder(other, "val"))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_file_that_is_no_picture_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    source = photos(tmp_path / "p", {"a": 3})
    (source / "a/broken.jpg").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"broken\.jpg .* is not a whole"):
        write_dataset(tmp_path / "out", "x", from_folder(source))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_is_no_damage_of_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photos(tmp_path / "p", {"a": 1})
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/out: Not a directory\. .* another --out"):
        write_dataset(tmp_path / "file" / "out", "x", from_folder(source))

    def full(before: Path, after: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)  # how meta.json gets its name, when the shards have theirs
    with pytest.raises(CheckpointError, match=r"out: No space left on device\. "):
        write_dataset(tmp_path / "out", "x", from_folder(source))


def test_a_picture_that_cannot_be_read_is_damage_of_the_pictures(tmp_path: Path) -> None:
    source = photos(tmp_path / "p", {"a": 1})
    (source / "a" / "gone.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        write_dataset(tmp_path / "out", "x", from_folder(source))


def test_folders_without_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--folder: there is no folder '.*nowhere'"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no class folders"):
        from_folder(tmp_path)
    (tmp_path / "p/a").mkdir(parents=True)
    with pytest.raises(DataError, match="no pictures for the train split"):
        write_dataset(tmp_path / "out", "x", from_folder(tmp_path / "p"))


def cifar(root: Path) -> Path:
    """CIFAR-10 as torchvision wants it on disk, but with three pictures a file (and so without its checksums)."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = np.random.RandomState(len(name)).randint(256, size=(3, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [7, 0, 9]}))
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return root


def test_a_torchvision_set_on_disk_becomes_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    origin = from_torchvision("CIFAR10", cifar(tmp_path / "root"), ["train", "test"])
    meta = write_dataset(tmp_path / "out", "cifar", origin)
    assert meta["classes"][7] == {"index": 7, "name": "horse"}
    assert {split: part["samples"] for split, part in meta["splits"].items()} == {"train": 15, "test": 3}
    index = open_split(split_of(tmp_path / "out", "test"), progress=False)
    assert sorted(index.labels[:, 0].tolist()) == [0, 7, 9]
    assert json.loads((tmp_path / "out/meta.json").read_text()) == meta


def test_a_torchvision_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR10 \(train\) could not be read"):
        from_torchvision("CIFAR10", tmp_path, ["train"])
    with pytest.raises(ConfigError, match=r"no data set 'CIFAR11'; one of .*CIFAR100"):
        from_torchvision("CIFAR11", tmp_path, ["train"])
