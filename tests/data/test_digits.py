from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from moe_bench.data.digits import enlarge, ensure_downstream, ensure_upstream, split_scans
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.loader import eval_loader
from moe_bench.data.sources import read_meta, split_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.fixture
def upstream(made: Path) -> Path:
    return ensure_upstream(made, progress=False)


@pytest.fixture
def downstream(made: Path) -> Path:
    return ensure_downstream(made, progress=False)


def opened(folder: Path, split: str) -> ShardIndex:
    return open_split(split_of(folder, split), cache_dir=folder.parent.parent, progress=False)


def pixels(index: ShardIndex) -> tuple[np.ndarray, np.ndarray]:
    batches = list(eval_loader(index, image_size=32, batch=100, workers=0))
    images = [batch["image"][:, 0].flatten(1).numpy() for batch in batches]
    return np.concatenate(images).astype(float), np.concatenate([batch["label"][:, 0].numpy() for batch in batches])


def test_the_scans_of_the_four_parts_are_real_and_never_shared() -> None:
    parts = [{scan.tobytes() for digit in scans for scan in digit} for scans in split_scans().values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    assert min(map(len, parts)) > 240


def test_upstream_is_two_digits_in_a_hundred_classes_of_equal_size(upstream: Path) -> None:
    train, val = opened(upstream, "train"), opened(upstream, "val")
    assert (len(train), len(val), train.num_classes) == (10_000, 1_000, 100)
    assert np.bincount(train.labels[:, 0]).tolist() == [100] * 100
    assert np.bincount(val.labels[:, 0]).tolist() == [10] * 100
    assert read_meta(upstream)["classes"][42]["name"] == "42"


def test_downstream_is_single_digits(downstream: Path) -> None:
    train, test = opened(downstream, "train"), opened(downstream, "test")
    assert (len(train), len(test), train.num_classes) == (500, 500, 10)
    assert np.bincount(train.labels[:, 0]).tolist() == [50] * 10


def test_a_class_is_the_left_digit_then_the_right_one(upstream: Path) -> None:
    glyphs = {
        enlarge(scan).round().astype(np.uint8).tobytes(): digit
        for digit, scans in enumerate(split_scans()["val"])
        for scan in scans
    }
    images, labels = pixels(opened(upstream, "val"))
    canvases = ((images[:100] + 1) * 127.5).round().astype(np.uint8).reshape(-1, 32, 32)
    for canvas, label in zip(canvases, labels):
        for half, digit in zip((canvas[:, :16], canvas[:, 16:]), divmod(int(label), 10)):
            assert digit in {glyphs.get(half[top : top + 16].tobytes()) for top in range(17)}


def test_the_bytes_are_the_same_wherever_and_whenever_they_are_made(upstream: Path, downstream: Path) -> None:
    shards = [
        shard["sha256"]
        for folder in (upstream, downstream)
        for split in read_meta(folder)["splits"].values()
        for shard in split["shards"]
    ]
    assert hashlib.sha256("".join(shards).encode()).hexdigest() == ALL_SHARDS


ALL_SHARDS = "9d733bf61065691e418376c4a1c13145502f17302fc2092fa08b81ce7d2defbd"


def test_raw_pixels_say_little_of_a_digit(downstream: Path) -> None:
    (train, labels), (test, truth) = (pixels(opened(downstream, split)) for split in ("train", "test"))
    mean = train.mean(axis=0)
    scores = []
    for draw in range(5):
        random = np.random.RandomState(draw)
        chosen = np.concatenate([random.permutation(np.flatnonzero(labels == digit))[:10] for digit in range(10)])
        shots = train[chosen] - mean
        weights = shots.T @ np.linalg.solve(shots @ shots.T + 32 * np.eye(100), 2 * np.eye(10)[labels[chosen]] - 1)
        scores.append(float((((test - mean) @ weights).argmax(axis=1) == truth).mean()))
    assert 0.2 < np.mean(scores) < 0.4


def test_a_half_made_set_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_bench.data.digits.png", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ensure_upstream(tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["digits-v1.lock"]
