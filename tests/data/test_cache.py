from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from moe_bench.data import cache as caching
from moe_bench.data import fetch
from moe_bench.data.cache import cache_folder, find, materialise, plain_path, replacing
from moe_bench.data.index import open_split
from moe_bench.errors import ConfigError, DataError
from tests.data.shards import write_shards


class Handler(SimpleHTTPRequestHandler):
    cut = 0  # bytes that the answer lacks

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        data = source.read()
        outputfile.write(data[: len(data) - self.cut])
        self.server.sent.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A real server of ``tmp_path``/www; ``.url`` is its address and ``.sent`` what it has sent."""
    (tmp_path / "www").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "www")))
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    server.sent = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def zipped(path: str | Path) -> str:
    target = Path(f"{path}.gz")
    target.write_bytes(gzip.compress(Path(path).read_bytes()))
    return str(target)


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "shards").glob("*")] if (cache / "shards").exists() else []


def test_a_plain_local_tar_is_read_where_it_is(tmp_path: Path, cache: Path) -> None:
    [path] = write_shards(tmp_path / "set", [2])
    assert open_split(path, progress=False).paths == (path,)
    assert leftovers(cache) == []


def test_a_gzipped_shard_becomes_the_same_plain_tar_once(tmp_path: Path, cache: Path) -> None:
    [path] = write_shards(tmp_path, [3])
    [shard] = find([zipped(path)])
    target = materialise(shard, cache_folder())
    assert target.read_bytes() == Path(path).read_bytes()
    before = target.stat()
    assert materialise(shard, cache_folder()).stat().st_mtime_ns == before.st_mtime_ns
    assert leftovers(cache) == [target.name]


def test_a_changed_shard_is_made_anew(tmp_path: Path) -> None:
    [path] = write_shards(tmp_path, [3])
    assert len(open_split(zipped(path), progress=False)) == 3
    [path] = write_shards(tmp_path, [4])
    assert len(open_split(zipped(path), progress=False)) == 4


@pytest.mark.parametrize("kept", [0, 1, 10, 200, -9, -1])
def test_a_cut_gzip_is_told_and_leaves_nothing_behind(tmp_path: Path, cache: Path, kept: int) -> None:
    path = Path(zipped(write_shards(tmp_path, [3])[0]))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"train-000000\.tar\.gz"):
        open_split(str(path), progress=False)
    assert [name for name in leftovers(cache) if name.startswith(".")] == []


def test_a_flipped_byte_in_a_gzip_is_told(tmp_path: Path) -> None:
    path = Path(zipped(write_shards(tmp_path, [3])[0]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut short"):
        open_split(str(path), progress=False)


def test_a_gzip_bomb_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "INFLATION_FLOOR", 1 << 20)
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(20 << 20)))
    with pytest.raises(DataError, match="unpacks to more than"):
        open_split(str(path), progress=False)
    assert leftovers(cache) == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_shard_of_a_web_server_is_fetched_once(tmp_path: Path, server: ThreadingHTTPServer, packed: bool) -> None:
    paths = write_shards(tmp_path / "www", [3, 2])
    names = [Path(zipped(path) if packed else path).name for path in paths]
    source = [f"{server.url}/{name}" for name in names]  # type: ignore[attr-defined]
    index = open_split(source, progress=False)
    assert [Path(plain).read_bytes() for plain in index.paths] == [Path(path).read_bytes() for path in paths]
    assert index.name(4) == f"{source[1]}:k4"
    open_split(source, progress=False)
    assert sorted(server.sent) == [f"/{name}" for name in names]  # type: ignore[attr-defined]


def test_missing_shards_are_counted_and_five_are_named(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    write_shards(tmp_path / "www", [1])
    url = server.url  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"7 of 8 shards are missing: .*000001\.tar, .*000005\.tar, \.\.\.;"):
        open_split(f"{url}/train-{{000000..000007}}.tar", progress=False)
    with pytest.raises(DataError, match=r"3 of 3 shards are missing: .*a-2\.tar; "):
        open_split(f"{tmp_path}/a-{{0..2}}.tar", progress=False)


@pytest.mark.parametrize("packed", [False, True])
def test_a_connection_that_ends_early_is_an_error_and_leaves_nothing(
    tmp_path: Path, cache: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    [path] = write_shards(tmp_path / "www", [3])
    name = Path(zipped(path) if packed else path).name
    url = f"{server.url}/{name}"  # type: ignore[attr-defined]
    monkeypatch.setattr(Handler, "cut", 100)
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.001)
    with pytest.raises(DataError, match=rf"{url} cannot be fetched: 6 attempts"):
        open_split(url.replace("//", "//me:secret@"), progress=False)
    assert leftovers(cache) == []


def test_a_server_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.001)
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/a\.tar cannot be fetched: 6 attempts"):
        find(["http://me:secret@127.0.0.1:9/a.tar"])


@pytest.mark.parametrize("url", ["s3://bucket/a.tar", "gs://bucket/a.tar"])
def test_cloud_shards_without_the_extra_say_what_to_install(url: str) -> None:
    pytest.importorskip("fsspec")
    for module in ("s3fs", "gcsfs"):
        try:
            __import__(module)
        except ImportError:
            continue
        pytest.skip(f"{module} is installed")
    with pytest.raises(ConfigError, match=r"moe-bench\[cloud\]"):
        find([url])


def test_a_shard_named_twice_is_refused(tmp_path: Path) -> None:
    [path] = write_shards(tmp_path, [1])
    with pytest.raises(ConfigError, match="named twice"):
        open_split([path, path], progress=False)


def test_processes_that_meet_share_the_work_and_agree(tmp_path: Path, cache: Path) -> None:
    paths = [zipped(path) for path in write_shards(tmp_path, [2] * 6)]
    code = "import sys; from moe_bench.data.index import open_split; print(open_split(sys.argv[1:]).fingerprint)"
    command = [sys.executable, "-c", code, *paths]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert len({fingerprint for fingerprint, _ in said}) == 1
    assert len(leftovers(cache)) == 6


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "target") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(write_shards(tmp_path, [2])[0])
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"0\.0 GiB free; set data\.cache_dir"):
        open_split(path, progress=False)


def test_the_cache_is_where_it_was_asked_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(tmp_path / "a") == tmp_path / "a"
    monkeypatch.setenv("MOE_BENCH_CACHE", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b"
    monkeypatch.delenv("MOE_BENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/moe-bench"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"set data\.cache_dir"):
        cache_folder(tmp_path / "file")


def test_the_same_name_behind_two_queries_is_two_shards(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    write_shards(tmp_path / "www", [1])
    url = f"{server.url}/train-000000.tar"  # type: ignore[attr-defined]
    one, two = find([f"{url}?part=1", f"{url}?part=2"])
    assert plain_path(one, tmp_path) != plain_path(two, tmp_path)
    assert "part" not in one.name
