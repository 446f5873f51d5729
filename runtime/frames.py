"""Frames between the daemon and a bootstrap: `type (1 byte) · length (4 bytes) · body`, on a socket or pipes.

What comes from the other end is hostile: a length is checked before anything is kept for it, and
nothing is read beyond a little while nobody waits for a frame.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import TypeAlias

from millstream.runtime.ends import End
from millstream.runtime.link import Broken

HEADER = struct.Struct("!cI")

READ_BYTES = 65536

JOIN_BYTES = 65536
"""A frame up to this is copied into one piece to be sent; a longer one is sent from where it is."""

LAST_READS = 256
"""How often at most a socket is read whose process is gone; a socket holds less."""

UNASKED_BYTES = 65536
"""What is taken at most while nobody waits; the rest stays in the socket."""

Frame: TypeAlias = tuple[bytes, bytes | memoryview]
"""Type and body; a long body is not copied."""


class Frames:
    """The daemon's ends, which do not block; `receive` by one caller at a time."""

    def __init__(self, reader: End, writer: End, limit_bytes: int) -> None:
        self._reader = reader
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._buffer = b""  # not yet taken: less than a frame while somebody waits
        self._long: tuple[bytes, memoryview] | None = None  # a frame longer than one read
        self._filled = 0  # bytes of it
        self._began_at = 0.0  # monotonic: its first bytes came
        self.took_s = 0.0  # from the first bytes of the last frame to its last ones
        self._waiting: asyncio.Future[Frame] | None = None
        self._room: asyncio.Future[None] | None = None  # to send on
        self._broken = False
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._read_on()

    @property
    def quiet(self) -> bool:
        """True if the other end is there and has sent nothing that is not yet received."""
        return not self._broken and not self._buffer and self._long is None

    def send(self, kind: bytes, *parts: bytes) -> memoryview | None:
        """Send one frame, or what there is room for; the rest is for `send_rest`.

        Raises:
            Broken: the other end is gone.
        """
        length = sum(map(len, parts))
        try:
            if length <= JOIN_BYTES:
                data = b"".join((HEADER.pack(kind, length), *parts))
                sent = self._writer.send(data)
                return None if sent == len(data) else memoryview(data)[sent:]
            last = parts[-1]
            before = b"".join((HEADER.pack(kind, length), *parts[:-1]))
            sent = self._writer.sendmsg((before, last))
        except BlockingIOError:
            return memoryview(b"".join((HEADER.pack(kind, length), *parts)))
        except OSError as error:
            raise Broken from error
        if sent < len(before):
            return memoryview(before[sent:] + last)
        return memoryview(last)[sent - len(before) :]

    async def send_rest(self, rest: memoryview) -> None:
        """Send it as there is room. Raises Broken: the other end is gone, or this one was closed."""
        while rest:
            if self._broken:
                raise Broken
            self._room = self._loop.create_future()
            self._loop.add_writer(self._writer, self._has_room)
            try:
                await self._room
                rest = rest[self._writer.send(rest) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise Broken from error
            finally:
                self._room = None
                if self._writer.fileno() >= 0:
                    self._loop.remove_writer(self._writer)

    async def receive(self) -> Frame:
        """The next frame's type and body.

        Raises:
            Broken: there is none, and will be none.
        """
        waiting: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting = waiting
        try:
            if self._buffer or self._broken:
                self._take(waiting)
            if not self._reading:
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
        """Close both ends; whoever waits gets Broken. Once, however often it is called."""
        self._end()
        if self._writer.fileno() >= 0:
            self._loop.remove_writer(self._writer)
            self._writer.close()
            self._reader.close()

    def _has_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _read_on(self) -> None:
        if not self._reading and not self._broken:
            self._reading = True
            self._loop.add_reader(self._reader, self._read)

    def _read(self) -> bool:
        """Take one piece; False if there is none now, or none can come."""
        try:
            if self._long is not None:
                return self._read_long(*self._long)
            data = self._reader.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._buffer = self._buffer + data if self._buffer else data
        if self._waiting is not None:
            self._take(self._waiting)
        elif len(self._buffer) > UNASKED_BYTES:
            self._stop_reading()
        return True

    def _read_long(self, kind: bytes, body: memoryview) -> bool:
        count = self._reader.recv_into(body[self._filled :])
        if not count:
            self._end()
            return False
        self._filled += count
        if self._filled == len(body):
            self._long = None
            self.took_s = time.monotonic() - self._began_at
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result((kind, body))
        return True

    def _take(self, waiting: asyncio.Future[Frame]) -> None:
        """Answer with a frame if one is whole, and with Broken if none can come."""
        if waiting.done():
            return
        buffer = self._buffer
        if len(buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(buffer)
            end = HEADER.size + length
            if length > self._limit_bytes:
                self._end()
            elif len(buffer) >= end:
                self._buffer = buffer[end:]
                self.took_s = 0.0
                waiting.set_result((kind, buffer[HEADER.size : end]))
            elif length > READ_BYTES and not self._broken:
                self._long, self._filled = (kind, memoryview(bytearray(length))), len(buffer) - HEADER.size
                self._long[1][: self._filled] = buffer[HEADER.size :]
                self._buffer = b""
                self._began_at = time.monotonic()
        if self._broken and not waiting.done():
            waiting.set_exception(Broken())

    def _end(self) -> None:
        self._broken = True
        self._stop_reading()
        for future in (self._waiting, self._room):
            if future is not None and not future.done():
                future.set_exception(Broken())

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._reader)
