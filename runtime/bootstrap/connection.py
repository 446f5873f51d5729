"""Frames over the socket that an execution environment has to the daemon: see `bootstrap.py`."""

from __future__ import annotations

import os
import socket
import struct

HEADER = struct.Struct("!cI")
READ_BYTES = 65536


class Connection:
    """Frames over a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""  # of what was read, behind the last frame

    def send(self, kind: bytes, *parts: bytes) -> None:
        """Send one frame, whole."""
        body = b"".join(parts)
        self._sock.sendall(HEADER.pack(kind, len(body)) + body)

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def receive(self) -> tuple[bytes, bytes]:
        """Wait for a frame: its type and body. Ends the process once the daemon is gone."""
        data = self._rest
        while len(data) < HEADER.size:
            data += self._read(READ_BYTES)
        kind, length = HEADER.unpack_from(data)
        end = HEADER.size + length
        if len(data) < end:
            pieces = [data]
            missing = end - len(data)
            while missing > 0:
                pieces.append(self._read(missing))
                missing -= len(pieces[-1])
            data = b"".join(pieces)
        self._rest = data[end:]
        return kind, data[HEADER.size : end]

    def _read(self, size: int) -> bytes:
        data = self._sock.recv(size)
        if not data:
            os._exit(0)  # the daemon is gone
        return data
