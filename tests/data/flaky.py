"""A real web server that fails as it is told to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Flaky:
    """What the server does. Each fault is of GET requests, the first ``times`` of them."""

    folder: Path
    url: str = ""
    times: int = 0
    fault: str = ""  # "status", "cut", "stall", "close"
    status: int = 503
    after: int = 700  # bytes sent before a cut or a stall
    ranges: bool = True
    says: int | None = None  # bytes, in the answer to HEAD
    sends: int | None = None  # bytes of the file that there are for GET, whole as far as it says
    tag: str = '"1"'
    tag_after_fault: str | None = None
    asked: list[str] = field(default_factory=list)  # the range of each GET, "" for all
    heads: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, how: Flaky, *args: object) -> None:
        self.how = how
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.how.heads += 1
        data = self._file()
        if data is None:
            self._answer(404, b"", 0)
        else:
            self._answer(200, b"", self.how.says or len(data))

    def do_GET(self) -> None:
        data, asked = self._file(), self.headers.get("Range", "")
        self.how.asked.append(asked)
        if data is None:
            self._answer(404, b"", 0)
            return
        data = data[: self.how.sends]
        found = re.fullmatch(r"bytes=(\d+)-", asked) if self.how.ranges else None
        first = int(found[1]) if found else 0
        if found and first >= len(data):
            self._answer(416, b"", 0)
        else:
            self._send(206 if found else 200, data[first:])

    def _send(self, status: int, data: bytes) -> None:
        how = self.how
        if how.times <= 0:
            self._answer(status, data, len(data))
            return
        how.times -= 1
        if how.fault == "status":
            self._answer(how.status, b"", 0)
        else:
            if how.fault != "close":
                self._answer(status, data[: how.after], len(data))
                self.wfile.flush()
            time.sleep({"stall": 3, "cut": 0.1}.get(how.fault, 0))  # a cut after what was sent has been read
            self.close_connection = True
        how.tag = how.tag_after_fault or how.tag

    def _file(self) -> bytes | None:
        path = self.how.folder / self.path.split("?")[0].lstrip("/")
        return path.read_bytes() if path.is_file() else None

    def _answer(self, status: int, data: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", self.how.tag)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(folder: Path) -> Iterator[Flaky]:
    """The server of ``folder``, on this machine."""
    how = Flaky(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, how))  # type: ignore[arg-type]
    how.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield how
    finally:
        server.shutdown()
        server.server_close()
