"""Takes an environment's standard output and error from their pipe into the function's log."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

from millstream.contract.ports import LogSink

READ_BYTES = 65536
LINE_BYTES = 256 * 1024
"""A longer line is cut into pieces. Source: AWS, CloudWatch Logs quotas, event size."""

REQUEST_BYTES = 4 * 1024 * 1024
"""What one request may log; the rest is counted and dropped."""

LINE_COST_BYTES = 64
"""What a line costs of that budget beside its text, for its time and stream are stored too."""

DRAIN_BYTES = 1024 * 1024
"""What is read at most when an invocation ends; a pipe holds 64 KB."""

FLOOD_BYTES = 1024 * 1024
FLOOD_PAUSE_S = 0.01
"""Once the budget is spent, reading rests for this long after each FLOOD_BYTES; the writer then waits."""


class Output:
    """A pipe; `write_end` is for the processes, and lines go to the log as they come."""

    def __init__(self, log: LogSink, stream: str, dropped: Callable[[int], None] | None = None) -> None:
        self._log = log
        self._stream = stream
        self._tell_dropped = dropped  # None: a line of the log says it
        self._rest = bytearray()
        self._logged = 0
        self._dropped_bytes = 0
        self._dropped_since_pause = 0
        self._pause: asyncio.TimerHandle | None = None
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(self._read_end, False)
        self._has_more = select.poll()
        self._has_more.register(self._read_end, select.POLLIN)
        asyncio.get_running_loop().add_reader(self._read_end, self._readable)

    def begin(self) -> None:
        """A new request: its budget is whole."""
        self._logged = self._dropped_bytes = 0

    def end(self) -> None:
        """Log what the request has written so far, its last line included; nothing once closed."""
        if self._read_end < 0:
            return
        if self._has_more.poll(0):
            for _ in range(DRAIN_BYTES // READ_BYTES):
                if not self._read():
                    break
        if self._rest:
            self._log_rest()
        if self._dropped_bytes:
            if self._tell_dropped is not None:
                self._tell_dropped(self._dropped_bytes)
            else:
                self._log.write(self._stream, f"LOGS_DROPPED Dropped Bytes: {self._dropped_bytes}")
            self._dropped_bytes = 0

    def close(self) -> None:
        """Give the pipe back."""
        if self._read_end < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._read_end)
        for end in (self._read_end, self.write_end):
            os.close(end)
        self._read_end = self.write_end = -1

    def _readable(self) -> None:
        self._read()
        if self._dropped_since_pause > FLOOD_BYTES and self._pause is None:
            self._dropped_since_pause = 0
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._read_end)
            self._pause = loop.call_later(FLOOD_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._read_end, self._readable)

    def _read(self) -> bool:
        """Take one piece; False if there was none."""
        try:
            data = os.read(self._read_end, READ_BYTES)
        except BlockingIOError:
            return False
        if self._logged >= REQUEST_BYTES:
            self._drop(len(data))
        else:
            self._lines(data)
        return True

    def _lines(self, data: bytes) -> None:
        first, newline, after = data.partition(b"\n")
        self._rest += first
        if newline:
            self._log_rest(empty=True)
            *lines, last = after.split(b"\n")
            for line in lines:
                self._line(line)
            self._rest += last
        if len(self._rest) > LINE_BYTES:
            self._log_rest()

    def _log_rest(self, *, empty: bool = False) -> None:
        """Log what has come of a line. An empty one only if it has ended."""
        if self._rest or empty:
            self._line(bytes(self._rest))
            self._rest.clear()

    def _line(self, line: bytes) -> None:
        if self._logged >= REQUEST_BYTES:
            self._drop(len(line))
            return
        self._logged += len(line) + LINE_COST_BYTES
        text = line.decode("utf-8", "replace")
        if "\r" not in text:
            self._log.write(self._stream, text)
            return
        for part in text.split("\r"):  # lines of one record, or a progress bar; each is given its place
            if part:
                self._log.write(self._stream, part)

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        self._dropped_since_pause += size
