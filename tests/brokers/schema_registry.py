"""A Confluent schema registry of the tests, on loopback: the part of its API that reads schemas."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

NOT_FOUND = {"error_code": 40403, "message": "Schema not found"}


@dataclass
class Kept:
    """A registered schema. `serialized` is what a Protobuf one is given out as, beside its text."""

    kind: str
    text: str
    references: Sequence[tuple[str, str, int]] = ()  # name, subject, version
    serialized: str | None = None

    def document(self, form: str) -> dict[str, Any]:
        found: dict[str, Any] = {"schema": self.text}
        if form == "format=serialized" and self.serialized is not None:
            found["schema"] = self.serialized
        if self.kind != "AVRO":  # which it leaves out
            found["schemaType"] = self.kind
        if self.references:
            keys = ("name", "subject", "version")
            found["references"] = [dict(zip(keys, one, strict=True)) for one in self.references]
        return found


@dataclass
class SchemaRegistry:
    """Answers to whoever knows `login`, if there is one; with `fault`, a status and a body, always that."""

    ids: dict[int, Kept] = field(default_factory=dict)
    versions: dict[tuple[str, int], Kept] = field(default_factory=dict)
    login: str | None = None  # the Authorization header
    fault: tuple[int, bytes] | None = None
    asked: list[str] = field(default_factory=list)

    def add(self, number: int, kept: Kept) -> None:
        self.ids[number] = kept

    def answer(self, path: str, login: str | None) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.fault is not None:
            return self.fault
        if self.login is not None and login != self.login:
            return 401, json.dumps({"error_code": 40101, "message": "Unauthorized"}).encode()
        parts = urlsplit(path)
        kept = self._kept([unquote(part) for part in parts.path.split("/")[1:]])
        if kept is None:
            return 404, json.dumps(NOT_FOUND).encode()
        return 200, json.dumps(kept.document(parts.query)).encode()

    def _kept(self, path: Sequence[str]) -> Kept | None:
        match path:
            case ["schemas", "ids", number]:
                return self.ids.get(int(number))
            case ["subjects", subject, "versions", version]:
                return self.versions.get((subject, int(version)))
            case _:
                return None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __post_init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                status, body = registry.answer(self.path, self.headers["Authorization"])
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(body)))
                if status in (301, 302):
                    self.send_header("Location", body.decode())
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name upstream
                pass

        return Handler


@contextmanager
def running() -> Iterator[SchemaRegistry]:
    registry = SchemaRegistry()
    try:
        yield registry
    finally:
        registry.close()


@pytest.fixture
def schema_registry() -> Iterator[SchemaRegistry]:
    """An empty one, for each test."""
    with running() as registry:
        yield registry
