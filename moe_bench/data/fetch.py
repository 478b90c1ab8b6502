"""Bytes from a server that fails, stalls and cuts: one stream, taken up again where it broke, so many times.

fsspec knows the protocols. What it is not asked for is patience: it gives up at the first fault, and where a server
cannot send a part of a file it starts over without a word.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from moe_bench.data.sources import shown
from moe_bench.errors import ConfigError, DataError

T = TypeVar("T")

ATTEMPTS = 6  # in a row that bring less than ENOUGH bytes
ENOUGH = 1 << 20
FIRST_PAUSE_S = 1.0  # doubled after each attempt: 31 s in all, so that a restart of the server is waited for
JITTER = 0.5  # the share by which a pause varies, so that many machines do not come back at once
SOCKET_SECONDS = 60  # without a byte
GONE = (404, 410)
FINAL = (400, 401, 403, 405, 416)  # answers of a server that are the same when it is asked again

log = logging.getLogger(__name__)
_random = random.Random()  # its own: a run's random numbers are not for waiting


class RemoteShard:
    """The bytes of ``url`` from its start to its end, for reading once.

    Raises DataError after ``ATTEMPTS`` in a row without progress, and where the file changes while it is read.
    """

    def __init__(self, url: str, size: int | None) -> None:
        self.url, self.size = url, size
        self._files = filesystem(url)
        self._patience, self._since = Patience(url), 0  # and the byte where it began
        self._at = 0  # bytes given out
        self._stream: Any = None
        self._tag: str | None = None  # the server's mark of this content

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, b"" at the end."""
        while True:
            try:
                data = self._read(size)
                break
            except Exception as error:  # every storage library has its own kinds
                self.close()
                self._patience.after(error, self._at)
        self._at += len(data)
        if self._at - self._since >= ENOUGH:
            self._patience, self._since = Patience(self.url), self._at
        return data

    def close(self) -> None:
        if self._stream is not None:
            with suppress(Exception):  # of a connection that is broken anyway
                self._stream.close()
            self._stream = None

    def __enter__(self) -> RemoteShard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = self._open()
        data: bytes = self._stream.read(size)
        if not data and self.size is not None and self._at < self.size:
            raise EOFError(f"the connection ended after {self._at:,} of {self.size:,} bytes")
        return data

    def _open(self) -> Any:
        if not self.url.startswith("http"):
            stream = self._files.open(self.url, "rb")
            stream.seek(self._at)
            return stream
        headers = {"headers": {"Range": f"bytes={self._at}-"}} if self._at else {}
        stream = self._files.open(self.url, "rb", block_size=0, size=self.size or 1, **headers)  # 0: one stream
        self._check_same(stream.r.headers)
        if self._at and stream.r.status != 206:  # the server sends whole files only
            _discard(stream, self._at)
        return stream

    def _check_same(self, headers: Any) -> None:
        tag = headers.get("ETag") or headers.get("Last-Modified")
        if self._at and tag != self._tag:
            raise DataError(f"{shown(self.url)} changed on the server while it was fetched; start again")
        self._tag = tag


def _discard(stream: Any, count: int) -> None:
    while count > 0:
        data = stream.read(min(count, ENOUGH))
        if not data:
            raise EOFError("the connection ended before the place where it broke last")
        count -= len(data)


class Patience:
    """Counts attempts at ``url`` and waits between them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.attempts, self.started = 0, time.monotonic()

    def after(self, error: Exception, place: int = 0) -> None:
        """Waits after a fault that may pass; ``place`` is how many bytes have come so far.

        Raises DataError with the attempts, the time and the fault after the last attempt, or where the server has said
        its final word; FileNotFoundError if it has no such file; what is no fault of the server as it is.
        """
        if isinstance(error, ConfigError | DataError):
            raise error
        cause = error.__cause__ or error  # fsspec says FileNotFoundError for whatever happens to a request
        status = getattr(cause, "status", None)
        if status in GONE or type(cause) is FileNotFoundError:
            raise FileNotFoundError(shown(self.url)) from error
        self.attempts += 1
        if self.attempts == ATTEMPTS or status in FINAL:
            tries = f"{self.attempts} attempt{'s' * (self.attempts > 1)} in {time.monotonic() - self.started:.0f} s"
            raise DataError(
                f"{shown(self.url)} cannot be fetched: {tries} ended at byte {place:,}, the last with {reason(cause)}. "
                "Type the same command again when the server answers; shards that are whole are kept"
            ) from error
        pause = FIRST_PAUSE_S * 2 ** (self.attempts - 1) * _random.uniform(1 - JITTER, 1 + JITTER)
        log.warning("%s: %s at byte %s; again in %.1f s", shown(self.url), reason(cause), f"{place:,}", pause)
        time.sleep(pause)


def patiently(act: Callable[[], T], url: str) -> T:
    """What ``act`` returns, tried again after faults that may pass. Raises as ``Patience.after``."""
    patience = Patience(url)
    while True:
        try:
            return act()
        except Exception as error:  # every storage library has its own kinds
            patience.after(error)


def filesystem(url: str) -> Any:
    """fsspec's view of the server. http has a limit for silence only: a big shard may take longer than any total."""
    import fsspec

    scheme = url.split("://")[0]
    try:
        if scheme in ("http", "https"):
            import aiohttp

            limit = aiohttp.ClientTimeout(total=None, sock_connect=SOCKET_SECONDS, sock_read=SOCKET_SECONDS)
            return fsspec.filesystem(scheme, client_kwargs={"timeout": limit})
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise ConfigError(f"{scheme}:// needs the cloud extra: pip install 'moe-bench[cloud]' ({error})") from error


def reason(error: BaseException) -> str:
    """An error in one line, without what its URLs may keep secret."""
    if isinstance(error, TimeoutError):
        return f"silence for {SOCKET_SECONDS} s"
    text = re.sub(r"\w+://[^\s'\"]+", lambda url: shown(url[0]), str(error))
    return f"{type(error).__name__}: {text}".rstrip(": ")
