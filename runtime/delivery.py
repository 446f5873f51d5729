"""Brings telemetry to one subscriber inside an environment: buffered, in batches, one at a time.

A subscriber that does not read blocks nobody: what has no room is dropped, counted, and told of in the next
batch as platform.logsDropped. Source: AWS, "Lambda Telemetry API reference".
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from millstream.runtime.platform import dropped, instant
from millstream.runtime.processes import NotStarted

LOOPBACK = "127.0.0.1"
ENVIRONMENT_BYTES = 4 * 1024 * 1024
"""What may wait for all subscribers of one environment, batches under way included."""

TRIES = 5
ANSWER_BYTES = 16 * 1024
"""Of the head of an answer; its status does not matter."""

MakeSocket = Callable[[], asyncio.Future[socket.socket]]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a subscriber listens, on the loopback address of its environment. `path` None: plain TCP."""

    port: int
    path: str | None = None
    method: str = "POST"
    host: str = "sandbox.localdomain"


@dataclass(frozen=True, slots=True)
class Buffering:
    """When a batch is sent."""

    items: int
    size_bytes: int
    timeout_s: float


class Room:
    """What is kept for the subscribers of one environment."""

    def __init__(self) -> None:
        self.used_bytes = 0

    def take(self, size: int) -> bool:
        """False where it does not fit."""
        if self.used_bytes + size > ENVIRONMENT_BYTES:
            return False
        self.used_bytes += size
        return True


class Subscriber:
    """Takes events as JSON, and sends them."""

    def __init__(
        self, destination: Destination, buffering: Buffering, make_socket: MakeSocket, room: Room
    ) -> None:
        self._destination = destination
        self._buffering = buffering
        self._make_socket = make_socket
        self._room = room
        self._events: list[bytes] = []
        self._size = 0
        self._batch: bytes | None = None  # under way
        self._batch_events = self._batch_size = 0  # of it
        self._tries = 0
        self._dropped_events = self._dropped_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = False
        self._asked: asyncio.Future[socket.socket] | None = None
        self._exchange: _Exchange | None = None
        self._socket: socket.socket | None = None  # of TCP, kept
        self._closed = False

    def put(self, event: bytes) -> None:
        """Take one event, or drop it."""
        full = len(self._events) >= self._buffering.items
        full = full or (bool(self._events) and self._size + len(event) > self._buffering.size_bytes)
        if self._closed or (full and self._batch is not None) or not self._room.take(len(event)):
            self._dropped_events += 1
            self._dropped_bytes += len(event)
            return
        if full:
            self._send()
        self._events.append(event)
        self._size += len(event)
        if self._timer is None and self._batch is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._buffering.timeout_s, self._send)
        self._due = self._due or self._size >= self._buffering.size_bytes
        if self._due:
            self._send()

    def flush(self) -> None:
        """Send what there is, as soon as the batch under way is done."""
        self._due = True
        self._send()

    def close(self) -> None:
        """Forget all of it."""
        self._closed = True
        self._stop_timer()
        if self._asked is not None:
            self._asked.cancel()
        if self._exchange is not None:
            self._exchange.close()
        if self._socket is not None:
            self._socket.close()
        self._room.used_bytes -= self._size + self._batch_size
        self._size = self._batch_size = 0
        self._events.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        """Make a batch of what there is, unless one is under way."""
        if self._batch is not None or self._closed or not self._events:
            return
        self._stop_timer()
        self._due = False
        events, self._events = self._events, []
        self._batch_events, self._batch_size, self._size = len(events), self._size, 0
        if self._dropped_events:
            events.append(_dropped_event(self._dropped_events, self._dropped_bytes))
            self._dropped_events = self._dropped_bytes = 0
        self._batch = _message(self._destination, events)
        self._tries = 0
        self._try()

    def _try(self) -> None:
        self._timer = None
        self._tries += 1
        if self._socket is not None:
            self._give(self._socket, connected=True)
            return
        self._asked = self._make_socket()
        self._asked.add_done_callback(self._take_socket)

    def _take_socket(self, asked: asyncio.Future[socket.socket]) -> None:
        self._asked = None
        if asked.cancelled():
            return
        if isinstance(asked.exception(), NotStarted):
            self._failed()
        elif self._closed:
            asked.result().close()
        else:
            asked.result().setblocking(False)
            self._give(asked.result(), connected=False)

    def _give(self, sock: socket.socket, *, connected: bool) -> None:
        answered = self._destination.path is not None
        self._exchange = _Exchange(sock, self._batch or b"", answered, self._done)
        self._exchange.start(None if connected else (LOOPBACK, self._destination.port))

    def _done(self, sock: socket.socket, *, good: bool) -> None:
        self._exchange = None
        if good and self._destination.path is None:
            self._socket = sock
        else:
            sock.close()
            self._socket = None
        if good:
            self._next()
        else:
            self._failed()

    def _failed(self) -> None:
        """Try again a little later; drop the batch where that does not help."""
        if self._closed:
            return
        if self._tries < TRIES:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._buffering.timeout_s, self._try)
            return
        self._dropped_events += self._batch_events
        self._dropped_bytes += self._batch_size
        self._next()

    def _next(self) -> None:
        """The batch is done with: what came meanwhile waits for its own time."""
        self._room.used_bytes -= self._batch_size
        self._batch, self._batch_events, self._batch_size = None, 0, 0
        if self._due:
            self._send()
        elif self._events:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._buffering.timeout_s, self._send)


class _Exchange:
    """Sends one batch over a socket, and waits for the head of an answer if there is one."""

    def __init__(self, sock: socket.socket, data: bytes, answered: bool, done: Callable[..., None]) -> None:
        self._sock = sock
        self._data = memoryview(data)
        self._answered = answered
        self._done = done
        self._answer = b""
        self._over = False

    def start(self, address: tuple[str, int] | None) -> None:
        """Connect to `address`, where it is not connected yet."""
        if address is not None:
            number = self._sock.connect_ex(address)
            if number not in (0, errno.EINPROGRESS, errno.EAGAIN):
                asyncio.get_running_loop().call_soon(self._end, False)
                return
        asyncio.get_running_loop().add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        try:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, "connect")
            self._data = self._data[self._sock.send(self._data) :]
        except BlockingIOError:
            return
        except OSError:
            self._end(False)
            return
        if len(self._data):
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._sock)
        if self._answered:
            loop.add_reader(self._sock, self._readable)
        else:
            self._end(True)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._answer += data
        if not data or b"\r\n\r\n" in self._answer or len(self._answer) > ANSWER_BYTES:
            self._end(bool(self._answer))

    def _end(self, good: bool) -> None:
        if not self._over:
            self._forget()
            self._done(self._sock, good=good)

    def close(self) -> None:
        """Give up."""
        if not self._over:
            self._forget()
            self._sock.close()

    def _forget(self) -> None:
        self._over = True
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._sock)
        loop.remove_reader(self._sock)


def _message(destination: Destination, events: list[bytes]) -> bytes:
    if destination.path is None:
        return b"".join(event + b"\n" for event in events)
    body = b"[" + b",".join(events) + b"]"
    head = (
        f"{destination.method} {destination.path} HTTP/1.1\r\nHost: {destination.host}:{destination.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def _dropped_event(events: int, size: int) -> bytes:
    record = dropped("Consumer seems to have fallen behind", events, size)
    event = {"time": instant(time.time()), "type": "platform.logsDropped", "record": record}
    return msgspec.json.encode(event)
