"""HTTP/1.1 as the Runtime, Extensions and Telemetry APIs of one environment need it. Every byte is hostile.

A connection holds at most HEADER_BYTES of a request's head, and of its body what the service that is
asked for allows; the rest is read and dropped, and more than DISCARD_BYTES closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import httptools
import msgspec

from millstream.runtime.processes import NotStarted

HEADER_BYTES = 256 * 1024
"""AWS's clients send an error's whole stack in a header (Lambda-Runtime-Function-XRay-Error-Cause)."""

CONNECTIONS = 64
"""At once, per environment: a runtime needs one, an extension two."""

DISCARD_BYTES = 64 * 1024 * 1024
REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(slots=True)
class Request:
    """One request; header names are in lower case. `body` is cut off where it is longer than allowed."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes = b""
    body_bytes: int = 0  # of which `body` may be the first part alone
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    began_at: float = 0.0  # monotonic: its head was here

    def header(self, name: bytes) -> str:
        """A header's value, or a trailer's; empty if there is none."""
        return (self.headers.get(name) or self.trailers.get(name) or b"").decode("latin-1")


class Reply(Protocol):
    """Where the answer to one request goes; it may be given later."""

    @property
    def gone(self) -> bool:
        """True if nobody waits for it any more."""

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer, with JSON."""


class Service(Protocol):
    """One of the APIs."""

    def body_limit(self, request: Request) -> int:
        """How many bytes of the body are kept; asked for once the head is here."""

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer, now or later. Must not raise."""


def refuse(reply: Reply, status: int, kind: str, message: str) -> None:
    """An error document."""
    reply.send(status, msgspec.json.encode({"errorMessage": message, "errorType": kind}))


class Server:
    """Serves the APIs of one environment; services are found by the first part of the path."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._listener: socket.socket | None = None
        self._closed = False

    async def start(self, listener: socket.socket) -> None:
        """Serve what connects to a socket that listens, which stays the caller's. Raises NotStarted."""
        loop = asyncio.get_running_loop()
        try:
            self._listener = listener.dup()
        except OSError as error:
            raise NotStarted(f"its APIs: {error.strerror}") from error
        # Not at once: a call that is cancelled in its middle would leave a server that nobody has.
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=self._listener, start_serving=False
        )
        await self._server.start_serving()

    def close(self) -> None:
        """End every connection; the loop has to go on for a little."""
        if self._server is not None and self._listener is not None and not self._closed:
            # Closed at once, asyncio's server would lose what it has accepted and made no connection of yet.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_soon(self._server.close)
        self._closed = True
        for connection in list(self._connections):
            connection.abort()

    def add(self, connection: _Connection) -> bool:
        """False where there are too many, and once it is closed."""
        if self._closed or len(self._connections) >= CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def remove(self, connection: _Connection) -> None:
        """It ended."""
        self._connections.discard(connection)

    def service(self, path: str) -> Service | None:
        """The service of a path."""
        return self.services.get(path.split("/", 2)[1] if path.startswith("/") else "")


class _Connection(asyncio.Protocol):
    """One connection; requests are answered in their order, each before the next is looked at."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request = Request("", "", {})
        self._path = b""
        self._head_bytes = 0
        self._in_body = False
        self._parts: list[bytes] = []
        self._limit = 0
        self._service: Service | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.add(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.remove(self)
        self._transport = self._parser = None

    def pause_writing(self) -> None:
        """It does not read its answers: nothing more is asked of it until it does."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return
        if not self._in_body and self._head_bytes > HEADER_BYTES:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # the parser's

    def on_message_begin(self) -> None:
        self._path = b""
        self._request = Request("", "", {})
        self._parts = []
        self._in_body = False

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        kept = self._request.trailers if self._in_body else self._request.headers
        if len(kept) < CONNECTIONS:
            kept[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._parser is None or self._transport is None:
            return
        request = self._request
        request.began_at = time.monotonic()
        request.method = self._parser.get_method().decode("latin-1")
        request.path = self._path.decode("latin-1")
        self._in_body = True
        self._service = self._server.service(request.path)
        self._limit = 0 if self._service is None else self._service.body_limit(request)
        if request.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        request = self._request
        request.body_bytes += len(data)
        if request.body_bytes <= self._limit:
            self._parts.append(data)
        elif request.body_bytes > DISCARD_BYTES:
            self.abort()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        if self._parser is None or self._transport is None:
            return
        request, self._parts, parts = self._request, [], self._parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        answer = _Answer(self._transport, keep=self._parser.should_keep_alive())
        if self._service is None:
            refuse(answer, 404, "NotFound", f"Nothing is at {request.path[:100]}")
        else:
            self._service.handle(request, answer)


class _Answer:
    """Implements Reply."""

    __slots__ = ("_keep", "_transport")

    def __init__(self, transport: asyncio.Transport, *, keep: bool) -> None:
        self._transport = transport
        self._keep = keep

    @property
    def gone(self) -> bool:
        return self._transport.is_closing()

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
        for name, value in (headers or {}).items():
            head += f"{name}: {value}\r\n"
        end = "\r\n" if self._keep else "Connection: close\r\n\r\n"
        text = f"{head}Content-Length: {len(body)}\r\n{end}"
        self._transport.write(text.encode("latin-1", "replace") + body)
        if not self._keep:
            with contextlib.suppress(OSError):
                self._transport.close()
