"""Serves the APIs of one environment, as often as a runtime and its extensions need it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time

from millstream.runtime.api.connection import Connection
from millstream.runtime.api.http import Service
from millstream.runtime.processes import NotStarted
from millstream.runtime.rates import RateLimit

CONNECTIONS = 16
"""At once, per environment: a runtime needs one, and each of ten extensions one to wait on."""

FEW_CONNECTIONS = 4
"""Connections beyond those, where the daemon has few descriptors left; and idle ones, frozen."""

CROWDED = 0.75
"""The part of the daemon's descriptors that all environments together leave for what matters more."""

PER_S, BURST = 1000.0, 1000.0
"""Reads and requests that come to nothing. What answers an invocation, or brings one, does not count."""

CONNECTS_PER_S, CONNECTS_BURST = 200.0, 64.0
ACCEPT_AGAIN_S = 1.0
"""Seconds until connections are accepted again, where no descriptor is left."""

logger = logging.getLogger(__name__)


class Server:
    """Implements Host; services are found by the first part of the path."""

    def __init__(self, function: str) -> None:
        self.services: dict[str, Service] = {}
        self._function = function
        self._connections: set[Connection] = set()
        self._making: set[asyncio.Task[object]] = set()
        self._listener: socket.socket | None = None
        self._later: asyncio.TimerHandle | None = None
        self._rate = RateLimit(PER_S, BURST)
        self._connects = RateLimit(CONNECTS_PER_S, CONNECTS_BURST)
        self._slowed = False
        self._closed = False

    async def start(self, listener: socket.socket) -> None:
        """Serve what connects to a socket that listens, which stays the caller's. Raises NotStarted."""
        try:
            self._listener = listener.dup()
        except OSError as error:
            raise NotStarted(f"its APIs: {error.strerror}") from error
        self._listener.setblocking(False)
        self._accept_on()

    def close(self) -> None:
        """End every connection; the loop has to go on for a little."""
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.abort()

    def drop_idle(self) -> None:
        """Close connections on which nobody waits, but for a few: descriptors are the daemon's."""
        for connection in self._idle()[:-FEW_CONNECTIONS]:
            connection.abort()

    # the connections'

    def add(self, connection: Connection) -> bool:
        if self._closed:
            return False
        if len(self._connections) >= CONNECTIONS:
            idle = self._idle()
            if not idle:
                return False
            self._connections.discard(idle[0])
            idle[0].abort()
        self._connections.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def service(self, path: str) -> Service | None:
        return self.services.get(path.split("/", 2)[1] if path.startswith("/") else "")

    def count(self) -> float:
        wait_s = self._rate.count(time.monotonic())
        if wait_s:
            self._say_slowed()
        return wait_s

    def give_back(self, count: int, *, connected: bool) -> None:
        self._rate.give_back(count)
        if connected:
            self._connects.give_back(1)

    def _idle(self) -> list[Connection]:
        """List the connections on which nobody waits, the one that was used last at the end."""
        return sorted((each for each in self._connections if each.idle), key=lambda each: each.used_at)

    def _say_slowed(self) -> None:
        if not self._slowed:
            self._slowed = True
            why = "it asks its APIs too often, or connects to them"
            logger.warning("environment slowed down", extra={"function": self._function, "why": why})

    def _accept_on(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept_later(self, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            loop.remove_reader(self._listener)
        self._later = loop.call_later(after_s, self._accept_on)

    def _accept(self) -> None:
        """Take one connection."""
        if self._listener is None:
            return
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            self._accept_later(ACCEPT_AGAIN_S)
            return
        if wait_s := self._connects.count(time.monotonic()):
            self._say_slowed()
            self._accept_later(wait_s)
        if len(self._connections) >= FEW_CONNECTIONS and crowded(accepted.fileno()):
            accepted.close()
            return
        accepted.setblocking(False)
        # As asyncio's own server does, which can neither be made to wait nor lose what it has just accepted.
        loop = asyncio.get_running_loop()
        made = loop.create_task(self._connect(accepted))
        self._making.add(made)
        made.add_done_callback(self._making.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self), accepted)


def crowded(descriptor: int) -> bool:
    """True if so high a number says that the daemon has few descriptors left: it is the lowest free one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and descriptor > soft * CROWDED
