"""One HTTP/1.1 connection to the APIs of an environment. Every byte of it is hostile.

It answers one request at a time, and looks at no more than TURN_BYTES before others of the loop have their
turn. It holds HEADER_BYTES of a request's head, TRAILER_BYTES behind its body, and of the body what the
service that is asked for allows; the rest is read and dropped, and more than DISCARD_BYTES closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol, cast

import httptools

from millstream.runtime.api.http import Request, Service, refuse

HEADER_BYTES = 256 * 1024
"""AWS's clients send an error's whole stack in a header (Lambda-Runtime-Function-XRay-Error-Cause)."""

UNREAD_BYTES = 16 * 1024
"""Most bytes that wait to be looked at; nothing more is read ahead of them."""

HEADERS = 64
"""Headers of a request that are kept, and trailers; AWS's clients send ten."""

TRAILER_BYTES = 64 * 1024
"""Most bytes between two pieces of a body, and behind the last: an error document, in base64."""

FRAMING = 8
"""Bytes of chunks' heads that may come for each byte of a body."""

DISCARD_BYTES = 64 * 1024 * 1024
DROPPED_BYTES = 64 * 1024
"""Bytes that are read to be dropped cost the environment as much as a request, for each so many."""

SLICE_BYTES = 2048
"""The parser is given so much at once where requests may end in it: it cannot be told to stop behind one."""

TURN_BYTES = 16 * 1024
STEP_BYTES = 64
"""Each header, and each piece of a body, is as much work as so many bytes."""

STEPS = 64
"""So many of them cost the environment as much as a request."""

REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NOTHING = memoryview(b"")


class Host(Protocol):
    """The server, as a connection sees it."""

    def add(self, connection: Connection) -> bool:
        """Take up one; false where there are too many, and once it is closed."""

    def remove(self, connection: Connection) -> None:
        """Forget one, which ended."""

    def service(self, path: str) -> Service | None:
        """The service of a path."""

    def count(self) -> float:
        """Count a read, or a request; the seconds that it has to wait, for the environment asks too often."""

    def give_back(self, count: int, *, connected: bool) -> None:
        """Uncount as many, for they were of use; and that it `connected`."""


class Connection(asyncio.Protocol):
    """Hands requests to their services in their order, each once the one before is answered."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._unread = NOTHING  # came, and was not yet looked at
        self._ready: deque[tuple[Request, bool]] = deque()  # whole, and whether the connection goes on
        self._answering = self._full = self._paused = False
        self._turn: asyncio.Handle | None = None
        self._spent = 0  # counted since the last request that was of use
        self._new = True  # none was, as yet
        self._wait_s = 0.0  # before anything else is looked at
        self._steps = 0  # of the parser, not yet counted
        self.used_at = time.monotonic()
        # of the request that the parser is at
        self._request = Request("", "", {})
        self._path = b""
        self._body = bytearray()
        self._limit = 0
        self._service: Service | None = None
        self._in_body = False
        self._body_left = 0  # as its head says. 0: not known, or no more
        self._others = self._since_body = 0  # bytes that are no body: of all of it, and behind the last piece
        self._dropped = 0

    @property
    def idle(self) -> bool:
        """True if nobody waits for an answer on it."""
        return not self._answering

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._host.add(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.remove(self)
        self._transport = self._parser = None
        self._unread = NOTHING
        self._ready.clear()
        if self._turn is not None:
            self._turn.cancel()

    def pause_writing(self) -> None:
        """Ask nothing more of a client that does not read its answers, until it does."""
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._go_on()

    def data_received(self, data: bytes) -> None:
        self._unread = memoryview(bytes(self._unread) + data if self._unread else data)
        self.used_at = time.monotonic()
        self._pay()
        if self._turn is None and not self._answering:
            self._work()
        elif len(self._unread) > UNREAD_BYTES:
            self._pause()

    def answered(self, *, of_use: bool) -> None:
        """The request that was handed on has its answer; the next one may be looked at, if there is one."""
        self._answering = False
        self.used_at = time.monotonic()
        if of_use:
            self._host.give_back(self._spent, connected=self._new)
            self._spent, self._new = 0, False
        self._go_on()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _go_on(self) -> None:
        if self._turn is None and (self._unread or self._ready or self._paused):
            wait_s, self._wait_s = self._wait_s, 0.0
            if wait_s:
                self._pause()
                self._turn = asyncio.get_running_loop().call_later(wait_s, self._work)
            else:
                self._turn = asyncio.get_running_loop().call_soon(self._work)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _pay(self) -> None:
        self._spent += 1
        self._wait_s = max(self._wait_s, self._host.count())

    def _work(self) -> None:
        """Hand on one request at most, and look at so many bytes; the rest is for later turns."""
        self._turn = None
        looked_at = 0
        while self._transport is not None and not self._transport.is_closing():
            if self._answering or self._full or not (self._ready or self._unread):
                break
            if looked_at >= TURN_BYTES or self._wait_s:
                self._go_on()
                break
            if self._ready:
                self._hand_on(*self._ready.popleft())
                looked_at = TURN_BYTES
            else:
                looked_at += self._feed()
        if len(self._unread) > UNREAD_BYTES:
            self._pause()
        elif self._paused and not self._unread and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _hand_on(self, request: Request, keep: bool) -> None:
        if self._transport is None:
            return
        self._answering = True
        answer = _Answer(self, self._transport, keep=keep, useful=request.method != "PUT")
        service = self._host.service(request.path)
        if service is None:
            refuse(answer, 404, "NotFound", f"Nothing is at {request.path[:100]}")
        else:
            service.handle(request, answer)

    def _feed(self) -> int:
        """Have the parser look at a piece. Its size, as work goes: a long piece of a body is little."""
        if self._parser is None:
            return 0
        size = min(len(self._unread), max(self._body_left, SLICE_BYTES))
        piece, self._unread = self._unread[:size], self._unread[size:]
        self._others += size
        self._since_body += size
        try:
            self._parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return size
        work = min(size, SLICE_BYTES) + self._steps * STEP_BYTES
        for _ in range(self._steps // STEPS + self._dropped // DROPPED_BYTES):
            self._pay()
        self._steps %= STEPS
        self._dropped %= DROPPED_BYTES
        most = TRAILER_BYTES if self._in_body else HEADER_BYTES
        framing = HEADER_BYTES + TRAILER_BYTES + FRAMING * self._request.body_bytes
        if self._since_body > most or self._others > framing:
            self.abort()
        return work

    # the parser's

    def on_message_begin(self) -> None:
        self._path = b""
        self._request = Request("", "", {})
        self._body = bytearray()
        self._in_body = False
        self._body_left = 0

    def on_url(self, url: bytes) -> None:
        self._steps += 1
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._steps += 1
        kept = self._request.trailers if self._in_body else self._request.headers
        if len(kept) < HEADERS:
            kept[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._parser is None or self._transport is None:
            return
        request = self._request
        request.began_at = time.monotonic()
        request.method = self._parser.get_method().decode("latin-1")
        request.path = self._path.decode("latin-1")
        self._in_body = True
        service = self._host.service(request.path)
        self._limit = 0 if service is None else service.body_limit(request)
        length = request.headers.get(b"content-length", b"")
        if length.isdigit() and b"transfer-encoding" not in request.headers:
            self._body_left = int(length[:20])
        if request.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        self._steps += 1
        request, size = self._request, len(data)
        request.body_bytes += size
        self._body_left = max(0, self._body_left - size)
        self._others -= size
        self._since_body = 0
        if request.body_bytes <= self._limit:
            self._body += data
            return
        self._dropped += size
        if request.body_bytes > DISCARD_BYTES:
            self.abort()

    def on_message_complete(self) -> None:
        self._pay()
        self._in_body = False
        self._others = self._since_body = self._body_left = 0
        if self._parser is None:
            return
        self._request.body = bytes(self._body)
        self._body = bytearray()
        self._ready.append((self._request, self._parser.should_keep_alive()))


class _Answer:
    """Implements Reply."""

    __slots__ = ("_connection", "_keep", "_transport", "_useful")

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, *, keep: bool, useful: bool
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._keep = keep
        self._useful = useful

    @property
    def gone(self) -> bool:
        return self._transport.is_closing()

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        if self._transport.is_closing():
            return
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
        for name, value in (headers or {}).items():
            head += f"{name}: {value}\r\n"
        end = "\r\n" if self._keep else "Connection: close\r\n\r\n"
        text = f"{head}Content-Length: {len(body)}\r\n{end}"
        self._transport.write(text.encode("latin-1", "replace") + body)
        if not self._keep:
            with contextlib.suppress(OSError):
                self._transport.close()
        self._connection.answered(of_use=self._useful and status < 400)
