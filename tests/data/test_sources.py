from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_bench.data.sources import expand_braces, resolve, shown, split_of, splits_in
from moe_bench.errors import ConfigError, DataError, SecurityError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def write_meta(folder: Path, split: str, names: list[str]) -> None:
    shards = [{"file": name, "samples": 1, "bytes": 0} for name in names]
    (folder / "meta.json").write_text(json.dumps({"num_classes": 2, "splits": {split: {"shards": shards}}}))


def test_braces_give_ranges_with_their_zeros_and_words() -> None:
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("{x,y}-{0..1}") == ["x-0", "x-1", "y-0", "y-1"]
    assert expand_braces("plain.tar") == ["plain.tar"]


def test_a_billion_shards_are_refused_with_their_number() -> None:
    with pytest.raises(ConfigError, match="1,000,000,001 shards"):
        expand_braces("{0..1000000000}.tar")


@pytest.mark.parametrize("pattern", ["{3..1}.tar", "{1..{2,3}}.tar", "a}.tar", "a{1.tar", "{0..99999999999999999999}"])
def test_braces_that_mean_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        expand_braces(pattern)


def test_lists_double_colons_wildcards_and_urls_mix_in_the_order_given(tmp_path: Path) -> None:
    touch(tmp_path, "b-1.tar", "b-0.tar")
    source = ["http://host/{0..1}.tar", f"x.tar::{tmp_path}/b-*.tar"]
    assert resolve(source) == [
        "http://host/0.tar",
        "http://host/1.tar",
        "x.tar",
        str(tmp_path / "b-0.tar"),
        str(tmp_path / "b-1.tar"),
    ]


def test_the_colons_of_an_ipv6_address_do_not_part_patterns() -> None:
    assert resolve("http://[::1]:80/a.tar::b.tar") == ["http://[::1]:80/a.tar", "b.tar"]


def test_pipes_are_refused_as_unsafe(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="shell command"):
        resolve(["a.tar", f"pipe:touch {tmp_path}/marker"])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("ftp://host/a.tar", "ftp:// is not read"),
        ("https://host/*.tar", "wildcards match local files only"),
        ("a.tar::", "empty word"),
        ([], "list of shards is empty"),
    ],
)
def test_what_cannot_be_a_pattern_is_told(source: str | list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(source)


def test_a_folder_given_as_a_shard_is_told_how_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path="):
        resolve(str(tmp_path))


def test_a_wildcard_without_a_match_shows_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "readme.txt")
    with pytest.raises(DataError, match=r"1 files: readme\.txt"):
        resolve(f"{tmp_path}/*.tar")


def test_messages_do_not_show_what_a_url_may_keep_secret() -> None:
    assert shown("https://me:secret@host:1/a.tar?sig=secret") == "https://host:1/a.tar"
    with pytest.raises(ConfigError) as caught:
        resolve("https://me:secret@host/{2..1}.tar?sig=secret")
    assert "secret" not in str(caught.value)


def test_a_folder_gives_its_splits_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "train-000001.tar.gz", "train-000000.tar.gz", "test-0.tar", "notes.tar", "train-x.txt")
    assert [Path(p).name for p in split_of(tmp_path, "train")] == ["train-000000.tar.gz", "train-000001.tar.gz"]
    assert [Path(p).name for p in split_of(tmp_path, "val")] == ["test-0.tar"]
    assert splits_in(tmp_path) == ["train", "test"]


def test_val_is_preferred_for_val_and_test_for_test(tmp_path: Path) -> None:
    touch(tmp_path, "val-0.tar", "test-0.tar")
    assert split_of(tmp_path, "val")[0].endswith("val-0.tar")
    assert split_of(tmp_path, "test")[0].endswith("test-0.tar")


def test_a_folder_without_shards_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for val-\*\.tar\[\.gz\] or test-.*is empty"):
        split_of(tmp_path, "val")
    touch(tmp_path, "images.zip")
    with pytest.raises(DataError, match=r"1 files: images\.zip"):
        splits_in(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        split_of(tmp_path / "nowhere", "train")


def test_gaps_in_the_numbers_are_missing_shards(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train-{n:03d}.tar" for n in range(20) if n not in range(3, 10)))
    with pytest.raises(DataError, match=r"lacks 7 shards: train-003\.tar, .*, train-007\.tar and 2 more"):
        split_of(tmp_path, "train")


def test_names_that_tell_the_total_must_all_be_there(tmp_path: Path) -> None:
    touch(tmp_path, "val-0-of-3.tar", "val-1-of-3.tar")
    with pytest.raises(DataError, match=r"val-2-of-3\.tar"):
        split_of(tmp_path, "val")


def test_shards_must_be_those_of_meta_json(tmp_path: Path) -> None:
    touch(tmp_path, "train-0.tar", "train-1.tar")
    write_meta(tmp_path, "train", ["train-0.tar", "train-1.tar", "train-2.tar"])
    with pytest.raises(DataError, match=r"lacks 1 shard: train-2\.tar \(meta.json lists 3\)"):
        split_of(tmp_path, "train")
    write_meta(tmp_path, "train", ["train-0.tar"])
    with pytest.raises(DataError, match=r"train-1\.tar that meta.json does not list"):
        split_of(tmp_path, "train")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "[" * 100_000,
        '{"num_classes": "ten"}',
        '{"num_classes": 0}',
        '{"splits": []}',
        '{"splits": {"train": 3}}',
        '{"splits": {"train": {"shards": ["train-0.tar"]}}}',
    ],
)
def test_a_broken_meta_json_is_named(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "train-0.tar")
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(DataError, match=r"meta\.json"):
        split_of(tmp_path, "train")
