"""Frames between the daemon and a bootstrap: `type (1 byte) · length (4 bytes) · body` on a socket.

What comes from the other end is hostile: a length is checked before anything is kept for it, and
nothing is read beyond a little while nobody waits for a frame.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from millstream.runtime.link import Broken

HEADER = struct.Struct("!cI")

READ_BYTES = 65536
LARGEST_READ_BYTES = 1024 * 1024

LAST_READS = 16
"""How often at most a socket is read whose process is gone; a socket holds less."""

UNASKED_BYTES = 65536
"""What is taken at most while nobody waits; the rest stays in the socket."""


class Frames:
    """One end of a socket; `receive` by one caller at a time."""

    def __init__(self, sock: socket.socket, limit_bytes: int) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._missing = 0  # of a frame whose header is here
        self._waiting: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._broken = False
        self._reading = False
        self._read_on()

    @property
    def quiet(self) -> bool:
        """True if the other end is there and has sent nothing that is not yet received."""
        return not self._broken and not self._buffer

    async def send(self, kind: bytes, *parts: bytes) -> None:
        """Send one frame.

        Raises:
            Broken: the other end is gone.
        """
        data = b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts))
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Broken from error
        if sent == len(data):
            return
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, memoryview(data)[sent:])
        except OSError as error:
            raise Broken from error

    async def receive(self) -> tuple[bytes, bytes]:
        """The next frame's type and body.

        Raises:
            Broken: there is none, and will be none.
        """
        waiting: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        try:
            self._take(waiting)
            self._read_on()
            return await waiting
        finally:
            self._waiting = None

    def hang_up(self) -> None:
        """The process at the other end is gone: what it has sent counts, and nothing else is waited for.

        The socket may still be open, in a process that it left behind.
        """
        for _ in range(LAST_READS):
            if not self._reading or not self._read():
                break
        self._end()

    def close(self) -> None:
        """Close the socket; whoever waits gets Broken."""
        self._end()
        asyncio.get_running_loop().remove_writer(self._sock)
        self._sock.close()

    def _read_on(self) -> None:
        if not self._reading and not self._broken:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._sock, self._read)

    def _read(self) -> bool:
        """Take one piece; False if there is none now, or none can come."""
        try:
            data = self._sock.recv(max(READ_BYTES, min(self._missing, LARGEST_READ_BYTES)))
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._buffer += data
        if self._waiting is not None:
            self._take(self._waiting)
        elif len(self._buffer) > UNASKED_BYTES:
            self._stop_reading()
        return True

    def _take(self, waiting: asyncio.Future[tuple[bytes, bytes]]) -> None:
        """Answer with a frame if one is whole, and with Broken if none can come."""
        buffer = self._buffer
        self._missing = 0
        if waiting.done():
            return
        if len(buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(buffer)
            end = HEADER.size + length
            if length > self._limit_bytes:
                self._end()
            elif len(buffer) >= end:
                body = bytes(memoryview(buffer)[HEADER.size : end])
                del buffer[:end]
                waiting.set_result((kind, body))
            else:
                self._missing = end - len(buffer)
        if self._broken and not waiting.done():
            waiting.set_exception(Broken())

    def _end(self) -> None:
        self._broken = True
        self._stop_reading()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Broken())

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._sock)
