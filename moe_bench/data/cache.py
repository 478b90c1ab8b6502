"""Every shard as a plain tar on this machine: compressed and remote ones are fetched into the cache folder once.

Training reads pictures by position, which needs plain local files. A cached file is named by what it was made from
(place, size, and modification time or etag), appears under its name only when complete, and is made by one process
while others wait.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from moe_bench.data.fetch import RemoteShard, filesystem, patiently, reason
from moe_bench.data.sources import is_remote, shown
from moe_bench.errors import ConfigError, DataError, MoeBenchError

CHUNK = 1 << 20  # bytes
MAX_INFLATION = 100  # a .gz that grows more than this, and beyond 1 GiB, is a bomb and not pictures
INFLATION_FLOOR = 1 << 30  # bytes
CONNECTIONS = 16


@dataclass(frozen=True)
class Shard:
    """A shard as the user named it. ``stamp`` changes when its content does."""

    location: str  # path or URL
    size: int | None  # bytes; None where a server does not tell
    stamp: str

    @property
    def name(self) -> str:
        """For messages: without secrets."""
        return shown(self.location)

    @property
    def in_place(self) -> bool:
        """True if it can be read where it is."""
        return not is_remote(self.location) and not self.location.endswith((".gz", ".tgz"))

    @property
    def key(self) -> str:
        """Names everything that is cached of this shard."""
        place = self.location if is_remote(self.location) else os.path.abspath(self.location)
        digest = hashlib.sha256(f"{place}\n{self.size}\n{self.stamp}".encode()).hexdigest()[:16]
        return f"{digest}-{os.path.basename(self.name).split('.')[0]}"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """``cache_dir``, else $MOE_BENCH_CACHE, else ~/.cache/moe-bench; made if it is missing.

    Raises ConfigError if it cannot be made or written.
    """
    folder = Path(cache_dir or os.environ.get("MOE_BENCH_CACHE") or "~/.cache/moe-bench").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the cache folder {folder} cannot be made ({error}); set data.cache_dir") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"the cache folder {folder} cannot be written; set data.cache_dir or $MOE_BENCH_CACHE")
    return folder


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its name if the block succeeds and goes away if it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def find(locations: Sequence[str]) -> list[Shard]:
    """Looks every shard up. Raises DataError listing the missing ones (five of them by name) and their number, and
    ConfigError for one that is named twice.
    """
    if len(set(locations)) < len(locations):
        twice = next(place for place, times in Counter(locations).items() if times > 1)
        raise ConfigError(f"the shard {shown(twice)} is named twice; its pictures would count twice")
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        look = pool.map if any(map(is_remote, locations)) else map
        found = list(look(_find_one, locations))
    missing = [shown(place) for place, shard in zip(locations, found) if shard is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(locations)} shards are missing: {', '.join(missing[:5])}"
            f"{', ...' * (len(missing) > 5)}; fetch them, or name only what is there"
        )
    return [shard for shard in found if shard is not None]


def _find_one(location: str) -> Shard | None:
    if is_remote(location):
        return _find_remote(location)
    try:
        status = os.stat(location)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{location} cannot be read: {error}") from error
    if not os.access(location, os.R_OK):
        raise DataError(f"{location} cannot be read: its mode is {stat.filemode(status.st_mode)}")
    return Shard(location, status.st_size, str(status.st_mtime_ns))


def _find_remote(url: str) -> Shard | None:
    try:
        info = patiently(lambda: filesystem(url).info(url), url)
    except FileNotFoundError:
        return None
    stamp = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("Last-Modified")
    return Shard(url, info.get("size"), str(stamp))


def plain_path(shard: Shard, cache: Path) -> Path:
    """Where the shard's plain tar is or will be."""
    return Path(shard.location) if shard.in_place else cache / "shards" / f"{shard.key}.tar"


def check_space(shards: Sequence[Shard], cache: Path) -> None:
    """Raises DataError if the shards still to fetch are larger than the free space of the cache folder."""
    needed = sum(shard.size or 0 for shard in shards if not plain_path(shard, cache).exists())
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise DataError(
            f"fetching the shards takes {needed / 2**30:.1f} GiB and {cache} has {free / 2**30:.1f} GiB free; "
            "set data.cache_dir to a larger disk"
        )


def materialise(shard: Shard, cache: Path) -> Path:
    """Makes the shard's plain tar if it is not there. One process at a time: the caller holds the shard's lock.

    Raises DataError if the shard cannot be read whole, grows like a bomb, or the disk is full.
    """
    target = plain_path(shard, cache)
    if target.exists():
        return target
    try:
        with replacing(target) as temporary, open(temporary, "wb") as out, _open(shard) as source:
            _copy(source, out, shard)
            out.flush()
            os.fsync(out.fileno())
    except MoeBenchError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{shard.name} is damaged or cut short ({reason(error)}); fetch it again") from error
    except OSError as error:
        free = shutil.disk_usage(cache).free / 2**30
        raise DataError(
            f"{shard.name} could not be copied to {cache} ({free:.1f} GiB free there): {reason(error)}"
        ) from error
    return target


def _open(shard: Shard) -> IO[bytes] | RemoteShard:
    return RemoteShard(shard.location, shard.size) if is_remote(shard.location) else open(shard.location, "rb")


class _Counted:
    """Counts the bytes read from a stream, so that a connection that ends early is noticed."""

    def __init__(self, source: IO[bytes] | RemoteShard) -> None:
        self.source, self.count, self.head = source, 0, b""

    def peek(self, size: int) -> bytes:
        self.head = self.source.read(size)
        return self.head

    def read(self, size: int = CHUNK) -> bytes:
        data, self.head = (self.head, b"") if self.head else (self.source.read(size), b"")
        self.count += len(data)
        return data


def _copy(source: IO[bytes] | RemoteShard, out: IO[bytes], shard: Shard) -> None:
    """Copies the stream, unpacked if it is gzip, whatever its name says."""
    counted = _Counted(source)
    packed = counted.peek(2) == b"\x1f\x8b"
    stream: Any = gzip.GzipFile(fileobj=counted) if packed else counted  # type: ignore[call-overload]
    written = 0
    while data := stream.read(CHUNK):
        written += out.write(data)
        if packed and written > max(INFLATION_FLOOR, MAX_INFLATION * counted.count):
            raise DataError(
                f"{shard.name} unpacks to more than {written / 2**30:.1f} GiB from {counted.count:,} bytes; refused"
            )
    if shard.size is not None and counted.count != shard.size:
        raise EOFError(f"got {counted.count:,} of {shard.size:,} bytes")
