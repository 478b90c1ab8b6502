"""One plain tar → a record for each picture: where its bytes are and what its labels are.

Headers are walked once with the standard library; nothing is extracted and only .cls and .json members are read.
tarfile and webdataset both stop without a word where a shard is cut or damaged; here every byte must be accounted for.
As in WebDataset a key is a name up to the first dot of its last part, and the members of a sample follow each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from moe_bench.errors import DataError, SecurityError

PICTURES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
BLOCK = 512
MAX_PADDING = 1 << 20  # zeros after the end mark; a longer run of them is what a broken download leaves
MAX_PICTURE = 1 << 28  # bytes
MAX_LABEL = 1 << 20  # bytes
MAX_NAME = 1024  # characters
MAX_CLASS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Records:
    """The pictures of one shard. N pictures, L labels at most."""

    offsets: NDArray[np.int64]  # (N,) first byte of the picture in the plain tar
    sizes: NDArray[np.uint32]  # (N,) bytes
    labels: NDArray[np.int32]  # (N, L), filled up with -1
    keys: NDArray[np.uint8]  # names joined by zero bytes: only messages need them, so they stay packed
    ignored: int  # members that are neither pictures nor labels

    def digest(self) -> str:
        """Identifies the content as far as the headers and labels tell."""
        sha = hashlib.sha256()
        for part in (self.offsets, self.sizes, self.labels, self.keys):
            sha.update(np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class LabelReader:
    """How labels are written: ``kind`` single or multi, and the key that holds them in a .json."""

    kind: str = "single"
    key: str = "label"

    def read(self, members: dict[str, bytes]) -> list[int]:
        """The labels in a sample's .cls or .json. Raises ValueError with a reason."""
        if "cls" in members and (self.kind == "single" or "json" not in members):
            return [_ascii_class(members["cls"])]
        if "json" not in members:
            raise ValueError("has no label: a .cls or .json member is missing")
        value = self._from_json(members["json"])
        if isinstance(value, list):
            if self.kind == "single":
                raise ValueError(f"has a list under {self.key!r}; set data.labels=multi")
            if not value:
                raise ValueError(f"has an empty list of labels under {self.key!r}")
            return [_json_class(one) for one in value]
        return [_json_class(value)]

    def _from_json(self, text: bytes) -> Any:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"has a .json that cannot be read: {error}") from error
        if not isinstance(content, dict) or self.key not in content:
            there = (
                f"has {', '.join(map(repr, list(content)[:8]))}" if isinstance(content, dict) else "is not an object"
            )
            raise ValueError(f"has no {self.key!r} in its .json, which {there}; set data.label_key")
        return content[self.key]


def _ascii_class(text: bytes) -> int:
    if not re.fullmatch(rb"\s*[0-9]{1,10}\s*", text) or int(text) > MAX_CLASS:
        raise ValueError(f"has a .cls of {text[:20]!r}, which is not an integer from 0 to {MAX_CLASS}")
    return int(text)


def _json_class(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_CLASS:
        raise ValueError(f"has the label {str(value)[:20]!r}, which is not an integer from 0 to {MAX_CLASS}")
    return value


def read_records(path: Path, name: str, reader: LabelReader) -> Records:
    """Walks the tar at ``path``; ``name`` stands for it in messages.

    Raises DataError where the shard is cut, damaged, or a sample is not one picture with labels; SecurityError for a
    picture or label that is a link, a device or has a name outside the shard.
    """
    with open(path, "rb") as file:
        scan = _Scan(file.fileno(), name, reader)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in _members(tar):
                    scan.add(member)
                scan.finish(tar.offset)
        except (tarfile.TarError, OSError, OverflowError, MemoryError, EOFError) as error:
            scan.fail(f"cannot be read as a tar ({error or type(error).__name__}){_hint(path)}")
    return scan.records()


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers all members otherwise: 1 GB for a million
        yield member


def _hint(path: Path) -> str:
    with open(path, "rb") as file:
        return ": it is gzip-compressed, name it .tar.gz" if file.read(2) == b"\x1f\x8b" else ""


class _Scan:
    """The state of one walk: the sample being gathered and the columns so far."""

    def __init__(self, fd: int, name: str, reader: LabelReader) -> None:
        self.fd, self.name, self.reader = fd, name, reader
        self.size = os.fstat(fd).st_size
        self.offsets, self.sizes = array("q"), array("L")
        self.labels: list[list[int]] = []
        self.keys: dict[str, None] = {}  # in order, and found fast
        self.ignored = 0
        self.key: str | None = None
        self.picture: tuple[int, int] | None = None  # offset, size
        self.texts: dict[str, bytes] = {}

    def fail(self, what: str) -> NoReturn:
        raise DataError(f"{self.name} {what}; {len(self.keys):,} samples precede. Fetch or make the shard again")

    def add(self, member: tarfile.TarInfo) -> None:
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        suffix = suffix.lower()
        if not stem or suffix not in PICTURES + LABELS:
            self.ignored += not member.isdir()
            return
        self._check_safe(member)
        if member.offset_data + member.size > self.size:
            self.fail(
                f"is cut short: {member.name!r} ends at byte {member.offset_data + member.size:,} of {self.size:,}"
            )
        key = f"{folder}/{stem}".removeprefix("./").removeprefix("/")
        if key != self.key:
            self._close_sample()
            self._open_sample(key)
        self._take(member, "picture" if suffix in PICTURES else suffix)

    def _check_safe(self, member: tarfile.TarInfo) -> None:
        if not member.isreg() or member.issparse():
            raise SecurityError(
                f"{self.name}:{member.name!r} is not a plain file (tar type {member.type!r}); links, devices and "
                "sparse files are refused. Make the shard again with plain files (tar --hard-dereference -h)"
            )
        if (
            member.name.startswith("/")
            or ".." in member.name.split("/")
            or "\0" in member.name
            or len(member.name) > MAX_NAME
        ):
            raise SecurityError(
                f"{self.name}: the member name {member.name[:80]!r} leaves the shard or is too long; "
                "make the shard again with relative names"
            )

    def _open_sample(self, key: str) -> None:
        if key in self.keys:
            self.fail(
                f"has the sample {key!r} twice, or its members apart from each other; they must be adjacent and unique"
            )
        self.key = key

    def _take(self, member: tarfile.TarInfo, part: str) -> None:
        if part in self.texts or (part == "picture" and self.picture):
            self.fail(f"has two members for the {part} of sample {self.key!r}")
        if member.size > (MAX_PICTURE if part == "picture" else MAX_LABEL):
            self.fail(f"has {member.name!r} with {member.size:,} bytes, too large for a {part}")
        if part == "picture":
            self.picture = (member.offset_data, member.size)
        else:
            self.texts[part] = os.pread(self.fd, member.size, member.offset_data)

    def _close_sample(self) -> None:
        if self.key is None:
            return
        if self.picture is None:
            self.fail(f"has no picture for sample {self.key!r}: one of .{', .'.join(PICTURES)} must be there")
        try:
            self.labels.append(self.reader.read(self.texts))
        except ValueError as error:
            raise DataError(f"{self.name}:{self.key} {error}") from error
        self.offsets.append(self.picture[0])
        self.sizes.append(self.picture[1])
        self.keys[self.key] = None
        self.key, self.picture, self.texts = None, None, {}

    def finish(self, end: int) -> None:
        """Closes the last sample and checks that the archive ends as tars do, at byte ``end``."""
        tail = os.pread(self.fd, MAX_PADDING + 1, end)
        if len(tail) < BLOCK:
            self.fail(f"is cut short: it ends at byte {self.size:,} without the end-of-archive mark")
        if tail[:BLOCK].strip(b"\0"):
            self.fail(f"is damaged: there is no valid header at byte {end:,} of {self.size:,}")
        if len(tail) > MAX_PADDING or tail.strip(b"\0"):
            self.fail(
                f"goes on for {self.size - end:,} bytes after its end-of-archive mark: two tars in one, or a download "
                "that was cut"
            )
        self._close_sample()
        if not self.keys:
            self.fail(f"holds no pictures (.{', .'.join(PICTURES)}) but {self.ignored:,} other members")

    def records(self) -> Records:
        longest = max(map(len, self.labels))
        labels = np.full((len(self.labels), longest), -1, dtype=np.int32)
        for row, values in zip(labels, self.labels):
            row[: len(values)] = values
        keys = "\0".join(self.keys).encode("utf-8", "surrogateescape")
        return Records(
            offsets=np.array(self.offsets, dtype=np.int64),
            sizes=np.array(self.sizes, dtype=np.uint32),
            labels=labels,
            keys=np.frombuffer(keys, dtype=np.uint8),
            ignored=self.ignored,
        )
