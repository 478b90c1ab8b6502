from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest
import torch

from moe_bench.data.dataset import Batch, PictureReader, Pictures, mix
from moe_bench.data.decode import Augmentation, evaluation_transform, training_transform
from moe_bench.data.index import open_split
from moe_bench.errors import DataError
from tests.data.shards import picture, sample, write_shards, write_tar


def pictures(folder: Path, seed: int | None = None, counts: tuple[int, ...] = (3, 3)) -> Pictures:
    index = open_split(write_shards(folder, counts), progress=False)
    transform = evaluation_transform(8) if seed is None else training_transform(8, Augmentation())
    return Pictures(index, transform, 8, seed)


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_batch_has_the_shapes_types_and_range_of_the_contract(tmp_path: Path) -> None:
    batch = pictures(tmp_path).batch([(4, 0), (0, 1), (-1, 2)])
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "image": (torch.float32, (3, 3, 8, 8)),
        "label": (torch.int64, (3, 1)),
        "valid": (torch.bool, (3,)),
        "index": (torch.int64, (3,)),
        "bad": (torch.int64, (0, 3)),
    }
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1
    assert batch["label"].tolist() == [[4], [0], [-1]]
    assert batch["valid"].tolist() == [True, True, False]
    assert batch["index"].tolist() == [4, 0, -1]


def test_pictures_are_those_that_were_written(tmp_path: Path) -> None:
    data = pictures(tmp_path)
    for number in (5, 0, 3):
        assert data._read(number) == picture(number)


def test_augmentation_depends_on_seed_and_position_and_not_on_the_batch(tmp_path: Path) -> None:
    data, other = pictures(tmp_path / "a", seed=0), pictures(tmp_path / "b", seed=1)
    alone = data.batch([(2, 17)])
    amid = data.batch([(0, 3), (2, 17), (5, 4)])
    assert torch.equal(alone["image"][0], amid["image"][1])
    assert not equal(alone, data.batch([(2, 18)]))
    assert not equal(alone, other.batch([(2, 17)]))


def test_the_random_numbers_of_the_run_are_not_touched(tmp_path: Path) -> None:
    data = pictures(tmp_path, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    data.batch([(0, 0), (1, 1)])
    assert torch.equal(torch.rand(3), expected)


def test_seeds_and_positions_are_stirred_well() -> None:
    keys = {mix(seed, position) % 2**32 for seed in range(50) for position in range(200)}
    assert len(keys) > 9_990
    assert all(0 <= mix(seed, 10**12) < 2**63 for seed in (0, 2**40))


@pytest.mark.parametrize(("data", "says"), [(b"", "is an empty file"), (b"no picture", "not a whole JPEG")])
def test_a_broken_picture_stops_with_its_shard_and_key(tmp_path: Path, data: bytes, says: str) -> None:
    path = write_tar(tmp_path / "s.tar", [*sample("good", 0), *sample("bad", 1, data)])
    found = Pictures(open_split(str(path), progress=False), evaluation_transform(8), 8)
    with pytest.raises(DataError, match=rf"s\.tar:bad .*{says}"):
        found.batch([(0, 0), (1, 0)])


def test_a_picture_over_the_limit_stops_with_its_shard_and_key(tmp_path: Path) -> None:
    index = open_split(write_shards(tmp_path, [1]), progress=False)
    with pytest.raises(DataError, match=r"000000\.tar:k0 has 8 × 8 = 64 pixels, more than data.max_pixels=10"):
        Pictures(index, evaluation_transform(8), 8, max_pixels=10).batch([(0, 0)])


def test_a_shard_that_changed_or_went_since_it_was_indexed_is_named(tmp_path: Path) -> None:
    data = pictures(tmp_path)
    path = Path(data.index.paths[1])
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))
    with pytest.raises(DataError, match=r"train-000001\.tar .* has changed since it was indexed"):
        data.batch([(4, 0)])
    path.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar cannot be opened any more"):
        data.batch([(4, 0)])


def test_a_shard_cut_while_it_is_open_is_named(tmp_path: Path) -> None:
    data = pictures(tmp_path)
    data.batch([(0, 0)])
    os.truncate(data.index.paths[0], 1000)
    with pytest.raises(DataError, match=r"000000\.tar:k2: only 0 of"):
        data.batch([(2, 0)])


def test_few_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_bench.data.dataset.OPEN_SHARDS", 2)
    reader = PictureReader(open_split(write_shards(tmp_path, [1] * 5), progress=False))
    before = len(os.listdir("/proc/self/fd"))
    for number in (0, 1, 2, 3, 4, 0, 2):
        assert reader(number) == picture(number)
    assert len(os.listdir("/proc/self/fd")) - before == 2


def test_a_data_set_travels_to_a_spawned_process(tmp_path: Path) -> None:
    data = pictures(tmp_path, seed=0)
    here = data.batch([(1, 1)])
    assert equal(pickle.loads(pickle.dumps(data)).batch([(1, 1)]), here)
