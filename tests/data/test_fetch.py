"""Against a real web server on this machine that fails, stalls, cuts and lies."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_bench.data import fetch
from moe_bench.data.fetch import ATTEMPTS, Patience, RemoteShard
from moe_bench.data.index import open_split
from moe_bench.errors import DataError
from tests.data.flaky import Flaky, serving
from tests.data.shards import write_shards

NAME = "train-000000.tar"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """It has one shard, plain and packed."""
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(fetch, "SOCKET_SECONDS", 0.3)
    write_shards(tmp_path / "www", [6])
    (tmp_path / f"www/{NAME}.gz").write_bytes(gzip.compress((tmp_path / "www" / NAME).read_bytes()))
    with serving(tmp_path / "www") as how:
        yield how


def opened(server: Flaky, name: str = NAME) -> bytes:
    """The plain tar that came of a shard."""
    return Path(open_split(f"{server.url}/{name}", progress=False).paths[0]).read_bytes()


def failed(server: Flaky, cache: Path) -> str:
    """What is said of a shard that cannot be had; nothing of it is left."""
    url = f"{server.url}/{NAME}?key=secret".replace("//", "//me:secret@")
    with pytest.raises(DataError) as caught:
        open_split(url, progress=False)
    told = str(caught.value)
    assert "secret" not in told
    assert f"{server.url}/{NAME}" in told
    assert not list((cache / "shards").glob("*")) if (cache / "shards").exists() else True
    return told


@pytest.mark.parametrize("fault", ["status", "cut", "stall", "close"])
@pytest.mark.parametrize("name", [NAME, f"{NAME}.gz"])
def test_what_fails_and_then_works_is_fetched_whole(server: Flaky, tmp_path: Path, fault: str, name: str) -> None:
    server.fault, server.times = fault, 2
    assert opened(server, name) == (tmp_path / "www" / NAME).read_bytes()
    assert len(server.asked) == 3


def test_a_download_goes_on_at_the_byte_where_it_broke(server: Flaky) -> None:
    server.fault, server.times = "cut", 2
    opened(server)
    assert server.asked == ["", "bytes=700-", "bytes=1400-"]


def test_a_server_without_ranges_is_read_again_up_to_there(server: Flaky, tmp_path: Path) -> None:
    server.fault, server.times, server.ranges = "cut", 2, False
    assert opened(server) == (tmp_path / "www" / NAME).read_bytes()
    assert len(server.asked) == 3


def test_a_shard_that_changes_while_it_is_fetched_is_not_patched_together(server: Flaky, cache: Path) -> None:
    server.fault, server.times, server.tag_after_fault = "cut", 1, '"2"'
    assert "changed on the server while it was fetched" in failed(server, cache)


@pytest.mark.parametrize(
    ("fault", "says"),
    [("status", "503"), ("stall", "silence for 0.3 s"), ("close", "Server disconnected")],
)
def test_patience_ends_after_so_many_attempts_and_says_what_came_of_the_last(
    server: Flaky, cache: Path, fault: str, says: str
) -> None:
    server.fault, server.times, server.after = fault, 99, 0
    told = failed(server, cache)
    assert f"cannot be fetched: {ATTEMPTS} attempts in " in told
    assert "ended at byte 0, the last with" in told
    assert says in told
    assert len(server.asked) >= ATTEMPTS  # aiohttp asks a second time by itself where a connection was closed


def test_a_few_bytes_an_attempt_are_no_progress(server: Flaky, cache: Path) -> None:
    server.fault, server.times, server.after = "cut", 99, 10
    assert f"ended at byte {10 * ATTEMPTS}, " in failed(server, cache)


def test_progress_restores_patience(server: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ENOUGH", 500)
    server.fault, server.times = "cut", ATTEMPTS + 2
    assert opened(server) == (tmp_path / "www" / NAME).read_bytes()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_asked_again(server: Flaky, cache: Path, status: int) -> None:
    server.fault, server.times, server.status = "status", 99, status
    told = failed(server, cache)
    assert f"1 attempt in 0 s ended at byte 0, the last with ClientResponseError: {status}" in told


def test_more_bytes_declared_than_there_are_is_told_with_both_numbers(server: Flaky, cache: Path) -> None:
    size = (server.folder / NAME).stat().st_size
    server.says, server.ranges = size + 1000, False
    assert f"the connection ended after {size:,} of {size + 1000:,} bytes" in failed(server, cache)


def test_a_file_cut_on_the_server_is_found_by_its_missing_end_and_fetched_again_next_time(
    server: Flaky, tmp_path: Path, cache: Path
) -> None:
    server.says = server.sends = 3000
    assert "1 samples precede. Fetch or make the shard again" in failed(server, cache)
    server.says = server.sends = None
    assert opened(server) == (tmp_path / "www" / NAME).read_bytes()


def test_fewer_bytes_declared_than_come_is_told(server: Flaky, cache: Path) -> None:
    server.says = 3000
    assert "of 3,000 bytes" in failed(server, cache)


def test_pauses_double_and_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", pauses.append)
    monkeypatch.setattr(fetch, "_random", random.Random(0))
    patience = Patience("http://host/a.tar")
    for _ in range(ATTEMPTS - 1):
        patience.after(ConnectionError())
    assert all(0.5 <= pause / 2**n <= 1.5 for n, pause in enumerate(pauses))
    assert len({pause / 2**n for n, pause in enumerate(pauses)}) == ATTEMPTS - 1
    with pytest.raises(DataError, match=f"{ATTEMPTS} attempts"):
        patience.after(ConnectionError())


def test_waiting_draws_no_random_numbers_of_the_run(server: Flaky) -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    server.fault, server.times = "cut", 1
    with RemoteShard(f"{server.url}/{NAME}", None) as shard:
        while shard.read(1 << 20):
            pass
    assert random.random() == expected
