"""A part of an open file, read as a file of its own. The standard library alone."""

from __future__ import annotations

import io
import os


class Region(io.RawIOBase):
    """Bytes `offset` to `offset + size` of a descriptor, which it neither moves nor closes."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.descriptor, self.offset, self.size = descriptor, offset, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer
        wanted = min(len(buffer), max(0, self.size - self._at))
        data = os.pread(self.descriptor, wanted, self.offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
