from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from moe_bench.data.tar import LabelReader, Records, read_records
from moe_bench.errors import DataError, SecurityError
from tests.data.shards import Members, member, picture, sample, write_tar


def read(path: Path, reader: LabelReader | None = None) -> Records:
    return read_records(path, path.name, reader or LabelReader())


def refused(tmp_path: Path, members: Members, says: str, reader: LabelReader | None = None) -> None:
    path = write_tar(tmp_path / "s.tar", members)
    with pytest.raises(DataError, match=says):
        read(path, reader)


def keys(records: Records) -> list[str]:
    return records.keys.tobytes().decode().split("\0")


def test_offsets_lead_to_the_bytes_of_each_picture(tmp_path: Path) -> None:
    pictures = [picture(n) for n in range(3)]
    path = write_tar(tmp_path / "s.tar", [m for n in range(3) for m in sample(f"a/k{n}", 7 * n, pictures[n])])
    records, data = read(path), path.read_bytes()
    assert [data[o : o + s] for o, s in zip(records.offsets, records.sizes)] == pictures
    assert records.labels.tolist() == [[0], [7], [14]]
    assert keys(records) == ["a/k0", "a/k1", "a/k2"]


def test_names_are_read_whatever_their_case_length_order_and_format(tmp_path: Path) -> None:
    long = "d/" * 90 + "x" * 90
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "s.tar", "w", format=form) as tar:
            for info, data in [member("A.CLS", b" 3\n"), member("A.JPEG", b"x"), *sample(long, 4), *sample("./é", 5)]:
                tar.addfile(info, io.BytesIO(data))
        assert keys(read(tmp_path / "s.tar")) == ["A", long, "é"]


def test_a_shard_cut_at_any_block_or_within_one_is_never_read_short(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "w.tar", [m for n in range(3) for m in sample(f"k{n}", n)]).read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512  # the end mark begins here; padding follows it
    path = tmp_path / "cut.tar"
    for cut in sorted({block + more for block in range(0, len(whole), 512) for more in (0, 1, 300)}):
        path.write_bytes(whole[:cut])
        if cut < end + 512:
            with pytest.raises(DataError, match=r"cut\.tar (is cut short|cannot be read)"):
                read(path)
        else:
            assert len(keys(read(path))) == 3  # only zeros are missing


def test_a_damaged_header_is_told_with_its_place(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [m for n in range(3) for m in sample(f"k{n}", n)])
    data = bytearray(path.read_bytes())
    second = data.index(b"k1.png")
    data[second + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"no valid header at byte {second:,}"):
        read(path)


def test_zeros_or_a_second_tar_behind_the_end_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", sample("a", 0))
    data = path.read_bytes()
    for more in (bytes(2 << 20), data):
        path.write_bytes(data + more)
        with pytest.raises(DataError, match="after its end-of-archive mark"):
            read(path)


@pytest.mark.parametrize("data", [b"", b"not a tar" * 100, b"\x1f\x8b" + bytes(1000)])
def test_what_is_not_a_tar_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"s\.tar cannot be read as a tar"):
        read(tmp_path / "s.tar")


def test_duplicate_and_split_samples_are_named(tmp_path: Path) -> None:
    refused(tmp_path, sample("a", 0) + sample("b", 0) + sample("a", 0), "the sample 'a' twice")
    png, cls = sample("a", 0)
    refused(tmp_path, [png, *sample("b", 0), cls], "sample 'a'|:a has no label")
    refused(tmp_path, [*sample("a", 0), member("a.jpg", b"x")], "two members for the picture of sample 'a'")


def test_a_picture_without_label_and_a_label_without_picture_are_named(tmp_path: Path) -> None:
    refused(tmp_path, [member("a.png", b"x")], r"s\.tar:a has no label")
    refused(tmp_path, [*sample("a", 0), member("b.cls", b"1")], "no picture for sample 'b'")


@pytest.mark.parametrize("label", ["", "cat", "-1", "1.5", "1_0", "٣", "0x1", "99999999999", "2147483648"])
def test_a_cls_that_is_not_a_class_number_is_named(tmp_path: Path, label: str) -> None:
    refused(tmp_path, sample("a", label), r"s\.tar:a has a \.cls of")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1]", "is not an object"),
        (b'{"other": 1}', "which has 'other'; set data.label_key"),
        (b'{"label": true}', "the label 'True'"),
        (b'{"label": "3"}', "not an integer"),
        (b'{"label": 1e400}', "the label 'inf'"),
        (b'{"label": [1, 2]}', "set data.labels=multi"),
    ],
)
def test_a_json_without_a_class_number_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    refused(tmp_path, [member("a.png", b"x"), member("a.json", content)], says)


def test_multi_labels_come_from_json_lists_and_are_filled_up(tmp_path: Path) -> None:
    def text(value: Any) -> bytes:
        return json.dumps({"y": value}).encode()

    members = [
        member("a.png", b"x"),
        member("a.json", text([5, 2, 9])),
        member("b.png", b"x"),
        member("b.json", text(4)),
    ]
    reader = LabelReader("multi", "y")
    assert read(write_tar(tmp_path / "s.tar", members), reader).labels.tolist() == [[5, 2, 9], [4, -1, -1]]
    refused(tmp_path, [member("a.png", b"x"), member("a.json", text([]))], "empty list", reader)


def test_a_cls_goes_before_a_json_for_single_labels(tmp_path: Path) -> None:
    members = [*sample("a", 3), member("a.json", b'{"label": 8}')]
    assert read(write_tar(tmp_path / "s.tar", members)).labels.tolist() == [[3]]
    multi = LabelReader("multi")
    assert read(write_tar(tmp_path / "s.tar", members), multi).labels.tolist() == [[8]]


def test_members_outside_the_allow_list_are_counted_and_never_read(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(tmp_path / "marker"), "w")

    evil = pickle.dumps(Payload())
    names = ["a.pyd", "a.pkl", "a.pickle", "a.pth", "a.npy", "a.seg.png", "._a.png", "../../a.txt", "/etc/a.conf"]
    path = write_tar(tmp_path / "s.tar", [*sample("a", 0), *(member(name, evil) for name in names)])
    assert read(path).ignored == len(names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.tar"]


@pytest.mark.parametrize("name", ["/abs/a.png", "../a.png", "x/../../a.png", "y" * 1100 + ".png"])
def test_picture_names_that_leave_the_shard_are_refused_as_unsafe(tmp_path: Path, name: str) -> None:
    with pytest.raises(SecurityError, match="leaves the shard"):
        read(write_tar(tmp_path / "s.tar", [member(name, b"x"), member("a.cls", b"0")]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_called_pictures_are_refused_as_unsafe(tmp_path: Path, kind: bytes) -> None:
    info, _ = member("a.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(SecurityError, match=r"'a\.png' is not a plain file"):
        read(write_tar(tmp_path / "s.tar", [(info, b""), member("a.cls", b"0")]))


def test_a_huge_declared_size_is_refused_without_being_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", sample("a", 0))
    for size in (10**15, 1 << 29):
        info, _ = member("b.cls")
        info.size = size
        path.write_bytes(path.read_bytes()[:2048] + info.tobuf() + bytes(2048))
        with pytest.raises(DataError, match=r"is cut short: 'b\.cls'"):
            read(path)


def test_a_label_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, [member("a.png", b"x"), member("a.json", bytes(2 << 20))], "too large for a json")


def test_a_shard_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    refused(tmp_path, [member("a.txt", b"x"), member("b.txt", b"x")], "holds no pictures .* but 2 other members")
