"""Faults of data, by the row of each in the table of faults: real files, and the command line for its exit code."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from faults.command import moe_bench
from moe_bench.data import fetch
from moe_bench.data.index import open_split
from moe_bench.data.plan import Plan
from moe_bench.errors import DataError
from tests.data.flaky import serving
from tests.data.shards import Members, member, picture, sample, write_damaged, write_shards, write_tar

TINY = [
    "data=shards", "probe=none", "logger=none", "recipe.steps=10", "recipe.batch=8", "recipe.checkpoint_every=3",
    "capacity.group_images=4", "model.image_size=8", "model.patch=4", "model.width=16", "model.depth=2",
    "model.heads=2", "model.mlp=16", "model.experts=4", "model.moe_blocks=[1]", "runtime.accelerator=cpu",
    "runtime.workers=0", "runtime.log_every=1",
]  # fmt: skip
SKIP = ["data.on_error=skip", "data.skip_limit=0.2"]
BAD = {2: b"", 3: b"junk", 12: picture(12)[:-30]}
VAL_BAD = {1: b"", 5: b"junk"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOE_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run_folder(root: Path) -> Path:
    (run,) = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return run


def summary(root: Path) -> dict[str, Any]:
    return json.loads((run_folder(root) / "summary.json").read_text())


def rows(root: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock says."""
    found = (json.loads(line) for line in (run_folder(root) / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in row.items() if k != "time" and not k.startswith(("throughput/", "memory/"))} for row in found
    ]


def data_set(folder: Path, bad: dict[int, bytes], val_bad: dict[int, bytes]) -> str:
    """25 training pictures and 9 of validation, in shards of 4."""
    write_damaged(folder, 25, bad)
    write_damaged(folder, 9, val_bad, split="val")
    return f"data.path={folder}"


def refused(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 3) -> str:
    """What is said of a run that ends with ``code`` before its first step."""
    assert moe_bench(*TINY, *words) == code
    told = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in told
    if (Path("runs")).exists():
        assert not (run_folder(Path("runs")) / "metrics.jsonl").exists()
    return told


def with_shard(folder: Path, members: Members) -> list[str]:
    """A data set whose second training shard has these members."""
    write_shards(folder, [8, 0, 8])
    write_shards(folder, [5], split="val")
    write_tar(folder / "train-000001.tar", members)
    return [f"data.path={folder}"]


def expected(folder: Path, places: int) -> Counter[str]:
    """What 10 steps of 8 must have met, counted place by place."""
    index = open_split([str(path) for path in sorted(folder.glob("train-*"))], progress=False)
    due = Plan(index.counts, 0, 65536).pictures(np.arange(places)).tolist()
    return Counter(index.key(one) for one in due)


def test_row_31_a_bad_picture_is_exit_code_3_and_named_and_the_same_run_goes_on_without_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data_set(here / "set", BAD, {})
    assert moe_bench(*TINY, path) == 3
    told = capsys.readouterr().err
    assert ".tar:k" in told
    assert "data.on_error=skip" in told
    assert moe_bench(*TINY, path, *SKIP) == 0
    assert summary(here / "runs")["steps"] == 10


def test_row_31_skipped_pictures_are_counted_by_shard_and_cause_and_said_at_the_end(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moe_bench(*TINY, data_set(here / "set", BAD, VAL_BAD), *SKIP, "data.skip_limit=0.25") == 0
    printed = " ".join(capsys.readouterr().out.split())
    told, due = summary(here / "runs"), expected(here / "set", 80)
    assert (told["data/seen"], told["data/epochs"], told["data/distinct"]) == (80, 3.2, 22)
    assert told["data/repeated"] == 80 - 22
    assert told["data/skipped"] == due["k2"] + due["k3"] + due["k12"]
    assert told["data/skipped/empty"] == due["k2"]
    assert told["data/skipped/damaged"] == due["k3"] + due["k12"]
    assert told["data/bad"] == 3
    assert told["data/bad/train-000000.tar/empty"] == told["data/bad/train-000000.tar/damaged"] == 1
    assert told["data/bad/train-000003.tar/damaged"] == 1
    assert told["val/count"] == 9
    assert told["val/bad"] == 2
    assert f"{told['data/skipped']} skipped ({due['k2']} empty, {due['k3'] + due['k12']} damaged; 3 bad" in printed
    assert "train-000003.tar:k12 (damaged); k13 takes its place in every epoch" in printed
    assert "2 of 9 validation pictures cannot be decoded and count as wrong answers" in printed
    epochs = [row for row in rows(here / "runs") if "data/seen" in row]
    assert [row["step"] for row in epochs if row["data/epochs"] // 1 > (row["step"] - 1) * 8 // 25] == [4, 7, 10]
    assert sum(row.get("data/bad/train-000003.tar/damaged", 0) for row in epochs) == 1


def test_row_31_bad_pictures_change_neither_the_number_of_steps_nor_the_order_after_them(here: Path) -> None:
    whole, broken = here / "whole" / "set", here / "broken" / "set"
    for folder, bad in ((whole, {}), (broken, {7: b"junk"})):
        assert moe_bench(*TINY, data_set(folder, bad, {}), *SKIP, f"runs_dir={folder.parent / 'runs'}") == 0
    first, second = rows(whole.parent / "runs"), rows(broken.parent / "runs")
    index = open_split([str(path) for path in sorted(whole.glob("train-*"))], progress=False)
    due = Plan(index.counts, 0, 65536).pictures(np.arange(80)).tolist()
    met = due.index(7) // 8 + 1  # the step that met it
    until = [[row for row in one if row["step"] < met and "train/loss" in row] for one in (first, second)]
    assert until[0] == until[1]
    assert [row["step"] for row in second if "train/loss" in row] == list(range(1, 11))


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_row_31_a_resumed_run_with_skipped_pictures_equals_the_unbroken_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    words = [*TINY, data_set(here / "set", BAD, {}), *SKIP, f"runtime.workers={workers}"]
    assert moe_bench(*words, "runs_dir=a") == 0
    with monkeypatch.context() as patch:
        patch.setattr("moe_bench.monitor.heartbeat.Heartbeat.on_train_batch_end", _stop_at_step_5)
        assert moe_bench(*words, "runs_dir=b") == 1
    assert moe_bench(*words, "runs_dir=b") == 0
    assert rows(here / "b") == rows(here / "a")
    ours, theirs = summary(here / "b"), summary(here / "a")
    assert {k: v for k, v in ours.items() if k.startswith(("data/", "val/"))} == {
        k: v for k, v in theirs.items() if k.startswith(("data/", "val/"))
    }


def _stop_at_step_5(self: Any, trainer: Any, *args: Any) -> None:
    if trainer.global_step == 5:
        raise RuntimeError("the test's own fault")


@pytest.mark.parametrize(("bad", "val_bad", "says"), [(BAD, {}, "3 of 25"), ({}, VAL_BAD, "1 of 9")])
def test_row_31_beyond_the_limit_is_exit_code_3_with_the_numbers(
    here: Path, capsys: pytest.CaptureFixture[str], bad: dict[int, bytes], val_bad: dict[int, bytes], says: str
) -> None:
    words = [*TINY, data_set(here / "set", bad, val_bad), "data.on_error=skip"]
    assert moe_bench(*words, "data.skip_limit=0.1") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"{says} pictures cannot be decoded and data.skip_limit=0.1 allows" in told
    assert json.loads((run_folder(here / "runs") / "status.json").read_text())["exit_code"] == 3


@pytest.mark.slow
def test_row_29_uneven_shards_on_ranks_count_every_picture_once_and_skip_alike(here: Path) -> None:
    """25 training pictures in 7 shards and 9 of validation in 3, bad ones among both."""
    words = [*TINY, data_set(here / "set", BAD, VAL_BAD), *SKIP, "data.skip_limit=0.25"]
    assert moe_bench(*words, "runs_dir=1") == 0
    command = [sys.executable, "-m", "moe_bench", *words, "runtime.devices=2", "runtime.workers=1", "runs_dir=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.split()).count("2 of 9 validation pictures") == 1
    alone, together = summary(here / "1"), summary(here / "2")
    told = [key for key in alone if key.startswith("data/") or key in ("val/count", "val/bad", "val/prec1")]
    assert {key: together[key] for key in told} == {key: alone[key] for key in told}
    assert (alone["val/count"], alone["val/bad"], alone["data/bad"]) == (9, 2, 3)
    accounts = [[row for row in rows(here / devices) if "data/seen" in row] for devices in ("1", "2")]
    assert accounts[0] == accounts[1]


def test_row_30_a_shard_cut_at_any_block_or_within_one_is_never_read_short(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(write_shards(here / "set", [3])[0])
    write_shards(here / "set", [5], split="val")
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512  # the end mark begins here; padding follows it
    for cut in sorted({block + more for block in range(0, len(whole), 512) for more in (0, 1, 300)}):
        path.write_bytes(whole[:cut])
        if cut < end + 512:
            with pytest.raises(DataError, match=r"train-000000\.tar (is cut short|cannot be read)"):
                open_split(str(path), progress=False)
        else:
            assert len(open_split(str(path), progress=False)) == 3
    path.write_bytes(whole[:1024])
    told = refused([f"data.path={here / 'set'}"], capsys)
    assert "train-000000.tar" in told
    assert "1,024" in told or "unexpected end of data" in told


def test_row_30_a_shard_shorter_than_meta_json_says_is_told_with_both_sizes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(write_shards(here / "set", [3])[0])
    write_shards(here / "set", [5], split="val")
    size = path.stat().st_size
    entries = {
        split: {"shards": [{"file": f"{split}-000000.tar", "bytes": bytes_, "samples": count}]}
        for split, bytes_, count in (("train", size, 3), ("val", (here / "set/val-000000.tar").stat().st_size, 5))
    }
    (here / "set/meta.json").write_text(json.dumps({"num_classes": 5, "splits": entries}))
    os.truncate(path, size - 512)  # padding only: all pictures are there
    told = refused([f"data.path={here / 'set'}"], capsys)
    assert f"train-000000.tar has {size - 512:,} bytes and meta.json says {size:,}" in told


def test_row_31_a_flipped_byte_in_a_header_is_told_with_its_place(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = with_shard(here / "set", [*sample("a", 0), *sample("b", 1)])
    path = here / "set/train-000001.tar"
    data = bytearray(path.read_bytes())
    place = data.index(b"b.png")
    data[place] ^= 1
    path.write_bytes(data)
    assert f"train-000001.tar is damaged: there is no valid header at byte {place:,}" in refused(words, capsys)


def zoo() -> Iterator[bytes]:
    """Pictures in every mode that files come in, an animation among them."""
    for mode, form in [("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("1", "PNG")]:
        out = io.BytesIO()
        Image.new("RGB", (9, 9), (10, 200, 30)).convert(mode).save(out, form)
        yield out.getvalue()
    deep, moving = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(deep, "PNG")
    frames = [Image.new("RGB", (9, 9), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    yield from (deep.getvalue(), moving.getvalue())


def test_row_32_pictures_of_any_mode_are_learned_from_and_empty_ones_count_as_bad(here: Path) -> None:
    animals = list(zoo())
    members = [m for n, data in enumerate(animals) for m in sample(f"z{n}", n % 5, data, "jpg")]
    words = with_shard(here / "set", [*members, *sample("none", 0, b""), *sample("text", 1, b"hello world")])
    assert moe_bench(*TINY, *words, *SKIP) == 0
    told = summary(here / "runs")
    assert told["data/distinct"] == 16 + len(animals)
    assert told["data/bad"] == 2
    assert {key for key in told if key.startswith("data/bad/")} == {
        "data/bad/train-000001.tar/empty",
        "data/bad/train-000001.tar/damaged",
    }


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("cat", "train-000001.tar:bad has a .cls of b'cat', which is not an integer from 0"),
        ("-1", "train-000001.tar:bad has a .cls of b'-1'"),
        ("", "train-000001.tar:bad has a .cls of b''"),
        ("7", "train-000001.tar:bad has the label 7, out of range for 5 classes (0 to 4)"),
        (None, "train-000001.tar:bad has no label: a .cls or .json member is missing"),
    ],
)
def test_row_33_a_wrong_label_is_exit_code_3_before_the_first_step(
    here: Path, capsys: pytest.CaptureFixture[str], label: str | None, says: str
) -> None:
    bad = sample("bad", label) if label is not None else sample("bad", 0)[:1]
    words = with_shard(here / "set", [*sample("a", 0), *bad])
    assert says in refused([*words, "data.num_classes=5", *SKIP], capsys)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([*sample("a", 0), *sample("b", 0), *sample("a", 0)], "has the sample 'a' twice"),
        ([sample("a", 0)[0], *sample("b", 0), sample("a", 0)[1]], "train-000001.tar:a has no label"),
        ([*sample("b", 0), sample("a", 0)[1]], "has no picture for sample 'a'"),
        ([*sample("a", 0), member("a.jpg", b"x")], "has two members for the picture of sample 'a'"),
    ],
)
def test_row_34_split_duplicate_and_incomplete_samples_are_exit_code_3_and_named(
    here: Path, capsys: pytest.CaptureFixture[str], members: Members, says: str
) -> None:
    assert says in refused([*with_shard(here / "set", members), *SKIP], capsys)


def test_row_35_missing_and_empty_shards_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = with_shard(here / "set", [])
    assert "train-000001.tar holds no pictures" in refused(words, capsys)
    (here / "set/train-000001.tar").write_bytes(b"")
    assert "train-000001.tar cannot be read as a tar (empty file)" in refused(words, capsys)
    (here / "set/train-000001.tar").unlink()
    assert "lacks 1 shard: train-000001.tar (2 are there)" in refused(words, capsys)
    pattern = [f"data.train={here}/set/train-{{000000..000009}}.tar", f"data.val={here}/set/val-000000.tar"]
    assert moe_bench(*TINY, *pattern) == 3
    assert "8 of 10 shards are missing: " in capsys.readouterr().err


def test_a_billion_shards_are_exit_code_2_before_any_is_looked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = [f"data.train='{here}/train-{{0..1000000000}}.tar'", "data.val=val-000000.tar"]
    assert "the most is 1,000,000" in refused(pattern, capsys, code=2)


@pytest.mark.slow
def test_row_35_fewer_shards_than_data_processes_are_enough(here: Path) -> None:
    write_shards(here / "set", [25])
    write_shards(here / "set", [9], split="val")
    assert moe_bench(*TINY, f"data.path={here / 'set'}", "runtime.workers=4") == 0
    assert (summary(here / "runs")["data/distinct"], summary(here / "runs")["val/count"]) == (25, 9)


def test_row_36_a_run_does_not_go_on_with_shards_that_changed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, data_set(here / "set", {}, {})]
    with monkeypatch.context() as patch:
        patch.setattr("moe_bench.monitor.heartbeat.Heartbeat.on_train_batch_end", _stop_at_step_5)
        assert moe_bench(*words) == 1
    write_damaged(here / "set", 26, {})
    capsys.readouterr()
    assert moe_bench(*words) == 2
    assert "the 26 training pictures are not those of the checkpoint of step 3" in capsys.readouterr().err


def test_row_36_a_shard_that_changes_during_a_run_is_exit_code_3(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, data_set(here / "set", {}, {})]

    def change(self: Any, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            for path in (here / "set").glob("val-*"):
                os.utime(path, (1, 1))

    monkeypatch.setattr("moe_bench.monitor.heartbeat.Heartbeat.on_train_batch_end", change)
    assert moe_bench(*words) == 3
    assert "has changed since it was indexed; start again" in capsys.readouterr().err


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("marker", "w")


def test_row_45_members_that_could_run_code_are_never_decoded(here: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.array([Payload()], dtype=object), allow_pickle=True)
    evil = {name: pickle.dumps(Payload()) for name in ("pyd", "pkl", "pickle", "pth", "pt", "pyc")} | {
        "npy": array.getvalue()
    }
    members = [member(f"a.{suffix}", data) for suffix, data in evil.items()]
    before = sorted(path.name for path in here.iterdir())
    words = with_shard(here / "set", [*sample("a", 0), *members])
    assert moe_bench(*TINY, *words) == 0
    assert sorted(path.name for path in here.iterdir()) == sorted([*before, "cache", "runs", "set"])


@pytest.mark.parametrize("source", ["pipe:touch marker", "pipe:cat a.tar"])
def test_row_45_pipes_are_exit_code_9(here: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    write_shards(here, [5], split="val")
    told = refused([f"data.train='{source}'", "data.val=val-000000.tar"], capsys, code=9)
    assert "would run a shell command and are refused" in told
    assert not (here / "marker").exists()


def test_row_45_an_unknown_protocol_is_exit_code_2(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ftp:// is not read" in refused(["data.train=ftp://host/a.tar", "data.val=b.tar"], capsys, code=2)


@pytest.mark.parametrize("name", ["../../escaped.png", "/tmp/escaped.png", "x/../../escaped.png"])
def test_row_45_names_that_leave_the_shard_are_exit_code_9_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = with_shard(here / "set", [member(name, picture()), member(name.replace("png", "cls"), b"0")])
    assert "leaves the shard" in refused(words, capsys, code=9)
    assert not [path for root in (here, here.parent, Path("/tmp")) for path in root.glob("escaped*")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_row_45_links_and_devices_called_pictures_are_exit_code_9(
    here: Path, capsys: pytest.CaptureFixture[str], kind: bytes
) -> None:
    info, _ = member("a.png")
    info.type, info.linkname = kind, "/etc/passwd"
    assert "is not a plain file" in refused(with_shard(here / "set", [(info, b""), member("a.cls", b"0")]), capsys, 9)


@pytest.mark.parametrize("size", [1 << 29, 10**15])
def test_row_45_a_huge_declared_size_is_exit_code_3_in_bounded_memory(
    here: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    words = with_shard(here / "set", sample("a", 0))
    info, _ = member("b.cls")
    info.size = size
    path = here / "set/train-000001.tar"
    path.write_bytes(path.read_bytes()[:2048] + info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    before = peak_mb()
    assert "train-000001.tar is cut short: 'b.cls' ends at byte" in refused(words, capsys)
    assert peak_mb() - before < 100


@pytest.mark.slow
def test_row_45_a_million_members_that_are_no_pictures_take_bounded_memory(here: Path) -> None:
    path = here / "many.tar"
    info, _ = member("x.txt")
    header = info.tobuf(tarfile.USTAR_FORMAT)
    with open(path, "wb") as file:
        file.writelines(repeat(header, 1_000_000))
    write_tar(here / "end.tar", sample("a", 0))
    with open(path, "ab") as file:
        file.write((here / "end.tar").read_bytes())
    before = peak_mb()
    assert len(open_split(str(path), progress=False)) == 1
    assert peak_mb() - before < 100


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bombs() -> Iterator[bytes]:
    """Pictures of few bytes and 100 million pixels, or with 80 MB of text."""
    wide, wordy = io.BytesIO(), io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(wide, "PNG")
    yield wide.getvalue()
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "x" * (80 << 20), zip=True)
    Image.new("RGB", (4, 4)).save(wordy, "PNG", pnginfo=notes)
    yield wordy.getvalue()


def test_row_46_decompression_bombs_count_as_bad_and_take_no_memory(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, wordy = bombs()
    words = with_shard(here / "set", [*sample("wide", 0, wide), *sample("wordy", 1, wordy), *sample("a", 2)])
    assert moe_bench(*TINY, *words, "runs_dir=strict") == 3
    assert "train-000001.tar:w" in capsys.readouterr().err
    before = peak_mb()
    assert moe_bench(*TINY, *words, *SKIP) == 0
    assert peak_mb() - before < 100
    told = summary(here / "runs")
    assert told["data/bad/train-000001.tar/too_large"] == told["data/bad/train-000001.tar/damaged"] == 1


def test_a_server_that_fails_for_good_is_exit_code_3_and_one_that_recovers_is_trained_from(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.001)
    write_shards(here / "www", [8])
    write_shards(here / "www", [5], split="val")
    with serving(here / "www") as server:
        words = [f"data.{split}={server.url}/{split}-000000.tar" for split in ("train", "val")]
        server.fault, server.times = "status", 99
        told = refused(words, capsys)
        assert f"{server.url}/train-000000.tar cannot be fetched: 6 attempts in" in told
        server.fault, server.times = "cut", 3
        assert moe_bench(*TINY, *words) == 0
