"""Writes functions' logs to a stream as JSON, one object a line, from a thread: it may be read slowly."""

from __future__ import annotations

import logging
import os
import queue
import threading

import msgspec

from millstream.contract.plain_text import plain_json

QUEUE_LINES = 20_000
"""Lines that wait at most; a line has 256 KB, but most of them a hundred bytes."""

QUEUE_BYTES = 32 * 1024 * 1024
CLOSE_S = 2.0
"""Seconds that the last lines may take to be read, as the daemon stops."""

logger = logging.getLogger(__name__)


class JsonLines:
    """Implements Lines: `{"time", "function", "stream", "message"}`. Lines that find no room are counted.

    It writes to a descriptor: the interpreter cannot end while a thread holds the lock of a buffered file.
    """

    def __init__(self, out: int) -> None:
        self._out = out
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="function-logs", daemon=True)
        self._thread.start()

    def write(self, at: str, function: str, stream: str, text: str) -> None:
        told = {"time": at, "function": function, "stream": stream, "message": text}
        line = plain_json(msgspec.json.encode(told).decode()).encode() + b"\n"
        with self._lock:
            full = self._lines.qsize() >= QUEUE_LINES or self._waiting_bytes + len(line) > QUEUE_BYTES
            if not full:
                self._waiting_bytes += len(line)
            first = full and not self._dropped
            self._dropped += full
        if not full:
            self._lines.put(line)
        elif first:
            logger.warning("function logs dropped, nobody reads them fast enough")

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.warning("function logs dropped, nobody reads them", extra={"lines": self._lines.qsize()})

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(self._out, left) :]
            except OSError as error:
                logger.warning("function logs not written any more", extra={"why": error.strerror})
                return
            with self._lock:
                self._waiting_bytes -= len(line)
                dropped, self._dropped = (self._dropped, 0) if self._lines.empty() else (0, self._dropped)
            if dropped:
                logger.warning("function logs were dropped", extra={"lines": dropped})
