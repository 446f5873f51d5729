"""Frames between an execution environment and the daemon, as the environment has them: see `bootstrap.py`."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

HEADER = struct.Struct("!cI")
READ_BYTES = 65536
LONG_READ_BYTES = 1 << 20  # what is read at once is room that is made first


class Connection:
    """Frames over descriptors that block: the first to read from, the last to write to. A socket is both."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = ends
        self._rest = b""  # of what was read, behind the last frame

    def send(self, kind: bytes, *parts: bytes) -> None:
        """Send one frame, whole."""
        body = b"".join(parts)
        left = memoryview(HEADER.pack(kind, len(body)) + body)
        while left:
            left = left[os.write(self._ends[-1], left) :]

    def close(self) -> None:
        """Give the descriptors back."""
        for end in self._ends:
            os.close(end)

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
        data = os.read(self._ends[0], min(size, LONG_READ_BYTES))
        if not data:
            os._exit(0)  # the daemon is gone
        return data
