"""A W&B server on a loopback port, as far as runs need one: it keeps their rows, refuses, or says nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLOSED = "http://127.0.0.1:9"
KEY = "k" * 40
"""A key of the right length for any server."""


class Service(ThreadingHTTPServer):
    """``rows`` has the history of each run by its id; ``states`` the exit code that each run ended with.

    ``mood``: "kind", "denying" (no such key) or "silent" (takes connections and never answers).
    """

    daemon_threads = True

    def __init__(self, mood: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood = mood
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.exit_codes: dict[str, int] = {}
        self.upserts: list[dict[str, Any]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.mood == "silent":
            self.server.over.wait(60)
            return
        denied = self.server.mood == "denying" and self.path == "/graphql"
        answer = {"errors": [{"message": "user is not logged in"}]} if denied else self.answer(body)
        encoded = json.dumps(answer).encode()
        self.send_response(401 if denied else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_PUT = do_POST

    def answer(self, body: bytes) -> dict[str, Any]:
        if self.path.endswith("/file_stream"):
            return self.take_rows(self.path.split("/")[-2], json.loads(body))
        if self.path != "/graphql":
            return {}
        asked = json.loads(body)
        given = asked.get("variables") or {}
        return {"data": self.data(str(asked.get("operationName")), given)}

    def data(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            self.server.upserts.append(given)
            return {"upsertBucket": {"bucket": self.bucket(given["name"], given.get("project")), "inserted": True}}
        if operation == "RunResumeStatus":
            known = given["name"] in self.server.rows
            bucket = self.bucket(given["name"], given.get("project")) if known else None
            return {"model": {"id": "p", "name": given["project"], "entity": ENTITY, "bucket": bucket}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.server.url}/put"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            return {"viewer": {"id": "u", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def bucket(self, name: str, project: str | None) -> dict[str, Any]:
        rows = self.server.rows.get(name, [])
        return {
            "id": "r", "name": name, "displayName": name, "config": "{}", "summaryMetrics": "{}", "tags": [],
            "project": {"id": "p", "name": project, "entity": ENTITY}, "historyLineCount": len(rows),
            "eventsLineCount": 0, "logLineCount": 0, "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]", "wandbConfig": "{}",
        }  # fmt: skip

    def take_rows(self, run: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Rows take their place from an offset, so that a run sent from 0 again replaces what was there."""
        if (history := (sent.get("files") or {}).get("wandb-history.jsonl")) is not None:
            rows = self.server.rows.setdefault(run, [])
            rows[history["offset"] :] = [json.loads(line) for line in history["content"]]
        if sent.get("complete"):
            self.server.exit_codes[run] = sent["exitcode"]
        return {}

    def log_message(self, *_: Any) -> None: ...


ENTITY = {"id": "e", "name": "me"}


@contextmanager
def service(mood: str = "kind") -> Iterator[Service]:
    with Service(mood) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
