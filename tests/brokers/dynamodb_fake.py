"""DynamoDB Streams over HTTP on loopback, with throttles, faults, slow answers and dropped connections.

A client of botocore takes it for the service: `endpoint_url=fake.url`. What it holds is arranged by a
test through `Streams`; nothing is written by way of HTTP.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from millstream.cli.embedded import TEST_CREDENTIALS
from tests.brokers.dynamodb_streams import MAX_SHARDS, Fault, Streams, Wire

HELD_S = 30.0

_RAW = re.compile(r'"@((?:[^"\\]|\\.)*)"')
"""A text that begins with `@` is sent as the JSON behind it."""


class DynamoDbFake(Streams):
    """The server. `requests` has each request that came, as (operation, body)."""

    def __init__(self, page_of_shards: int = MAX_SHARDS) -> None:
        super().__init__(page_of_shards)
        self.requests: list[tuple[str, Wire]] = []
        self._faults: dict[str, deque[Fault]] = {}
        self._held: dict[str, threading.Event] = {}
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Take connections, on the same port as before."""
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), name="dynamodb-fake", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and close those that are open; the streams stay."""
        if self._server is not None and self._thread is not None:
            for held in self._held.values():
                held.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def fail(self, operation: str, *codes: str, status: int = 400) -> None:
        """Answer the next requests of an operation with these errors."""
        with self.lock:
            self._faults.setdefault(operation, deque()).extend(Fault(code, status) for code in codes)

    def throttle(self, operation: str, times: int, code: str = "ThrottlingException") -> None:
        self.fail(operation, *[code] * times)

    def drop(self, operation: str, times: int = 1) -> None:
        """Close the connection of the next requests, unanswered."""
        with self.lock:
            self._faults.setdefault(operation, deque()).extend([Fault("", 0, drop=True)] * times)

    def hold(self, operation: str) -> Callable[[], None]:
        """Answer no request of an operation until the function that this returns is called."""
        held = self._held[operation] = threading.Event()
        return held.set

    def count(self, operation: str) -> int:
        """How many requests of an operation came."""
        return Counter(name for name, _ in self.requests)[operation]

    def asked(self, operation: str) -> list[Wire]:
        """Bodies of the requests of an operation."""
        return [body for name, body in self.requests if name == operation]

    def answer(self, operation: str, body: Wire) -> Wire:
        """What the service answers."""
        with self.lock:
            self.requests.append((operation, body))
            held = self._held.get(operation)
        if held is not None:
            held.wait(HELD_S)
        with self.lock:
            if faults := self._faults.get(operation):
                raise faults.popleft()
        return self.perform(operation, body)


@pytest.fixture
def dynamodb_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoDbFake]:
    """A fake of its own for each test."""
    for name, value in TEST_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with DynamoDbFake() as fake:
        yield fake


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in tuple(self._connections):
            with suppress(OSError):  # closed by its client
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client, or this server, closed the connection in the middle of a request."""


class _Handler(BaseHTTPRequestHandler):
    fake: DynamoDbFake
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        try:
            status, answer = 200, self.fake.answer(operation, body)
        except Fault as fault:
            if fault.drop:
                self.close_connection = True
                return
            status = fault.status
            answer = {"__type": f"com.amazonaws.dynamodb.v20120810#{fault.code}", "message": "by the fake"}
        data = _RAW.sub(lambda text: json.loads(f'"{text[1]}"'), json.dumps(answer)).encode()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(datetime.fromtimestamp(self.fake.now(), UTC), usegmt=True))
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
