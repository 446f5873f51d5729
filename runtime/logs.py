"""The functions' logs: one file a function, bounded, written a little later than the lines come."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

FLUSH_S = 0.1
"""How long a line waits at most before it is in the file."""

FILE_BYTES = 10 * 1024 * 1024
"""A file that has grown to this is kept as NAME.log.1, in place of the one before."""

BUFFER_BYTES = 1024 * 1024
"""Lines that wait are written at once when they are this much."""


class FunctionLog:
    """Implements LogSink. A line in the file: `time stream text`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._broken = False
        self._at_ms, self._at = 0, ""  # the time of the last line, and its text

    def write(self, stream: str, text: str) -> None:
        now_ms = int(time.time() * 1000)
        if now_ms != self._at_ms:
            self._at_ms = now_ms
            at = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")
            self._at = f"{at[:-6]}Z"
        self._lines.append(f"{self._at} {stream} {text}\n")
        self._waiting += len(text)
        if self._waiting > BUFFER_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Put the lines that wait into the file. A disk that is full loses them, and is said once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        text, self._lines, self._waiting = "".join(self._lines), [], 0
        try:
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)
                size = file.tell()
            if size > FILE_BYTES:
                self._path.rename(self._path.with_suffix(".log.1"))
            self._broken = False
        except OSError as error:
            if not self._broken:
                extra = {"file": str(self._path), "why": error.strerror}
                logger.warning("function log not written", extra=extra)
            self._broken = True


class FunctionLogs:
    """The log of each function, in `directory/NAME.log`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._logs: dict[str, FunctionLog] = {}

    def of(self, function: str) -> FunctionLog:
        """The log of one function."""
        if function not in self._logs:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._logs[function] = FunctionLog(self._directory / f"{function}.log")
        return self._logs[function]

    def flush(self) -> None:
        """Put what waits into the files."""
        for log in self._logs.values():
            log.flush()
