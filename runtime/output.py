"""Takes an environment's standard output and error from their pipe into the function's log."""

from __future__ import annotations

import asyncio
import contextlib
import os

from millstream.contract.ports import LogSink

READ_BYTES = 65536
LINE_BYTES = 256 * 1024
"""A longer line is cut into pieces. Source: AWS, CloudWatch Logs quotas, event size."""

REQUEST_BYTES = 4 * 1024 * 1024
"""What one request may log; the rest is counted and dropped."""

DRAIN_BYTES = 1024 * 1024
"""What is read at most when an invocation ends; a pipe holds 64 KB."""


class Output:
    """The reading end of a pipe; lines go to the log as they come."""

    def __init__(self, log: LogSink, stream: str) -> None:
        self.write_end = -1
        self._log = log
        self._stream = stream
        self._rest = b""
        self._logged = 0
        self._dropped_bytes = 0
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)

    def begin(self) -> None:
        """A new request: its budget is whole."""
        self._logged = self._dropped_bytes = 0

    def end(self) -> None:
        """Log what the request has written so far, its last line included; nothing once closed."""
        if self._read_end < 0:
            return
        for _ in range(DRAIN_BYTES // READ_BYTES):
            if not self._read():
                break
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        if self._dropped_bytes:
            self._log.write(self._stream, f"LOGS_DROPPED Dropped Bytes: {self._dropped_bytes}")

    def close(self) -> None:
        """Give the pipe back."""
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        self._read_end = -1
        self.close_write_end()

    def close_write_end(self) -> None:
        """Close our copy of the writing end; the environment has its own."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def _read(self) -> bool:
        """Take one piece; False if there was none."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._read_end, READ_BYTES)
            if not data:  # every writer is gone
                asyncio.get_running_loop().remove_reader(self._read_end)
        if not data:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._rest) > LINE_BYTES:
            self._line(self._rest)
            self._rest = b""
        return True

    def _line(self, line: bytes) -> None:
        if self._logged + len(line) > REQUEST_BYTES:
            self._dropped_bytes += len(line)
            return
        self._logged += len(line)
        self._log.write(self._stream, line.decode("utf-8", "replace"))
