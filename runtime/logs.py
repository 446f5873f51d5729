"""The functions' logs: files of each function, bounded, written a little later than the lines come."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from millstream.runtime.log_files import LogLimits, remove_old, rotate

logger = logging.getLogger(__name__)

FLUSH_S = 0.1
"""How long a line waits at most before it is in the file."""

BUFFER_BYTES = 1024 * 1024
"""Lines that wait are written at once when they are this much."""

LOOK_EVERY_S = 3600.0
"""Seconds between two looks for files that are too old."""


class Lines(Protocol):
    """Another place that lines go to."""

    def write(self, at: str, function: str, stream: str, text: str) -> None:
        """Take one line. Never blocks."""

    def close(self) -> None:
        """Let go of what is there, within a time."""


class FunctionLog:
    """Implements LogSink. A line in the file: `time stream text`."""

    def __init__(self, function: str, path: Path | None, limits: LogLimits, also: Lines | None) -> None:
        self._function = function
        self._path = path
        self._limits = limits
        self._also = also
        self._lines: list[str] = []
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._broken = False
        self._at_ms, self._at = 0, ""  # the time of the last line, and its text
        self._began_at: float | None = None  # the file that is written to; None: not known

    def write(self, stream: str, text: str) -> None:
        now_ms = int(time.time() * 1000)
        if now_ms != self._at_ms:
            self._at_ms = now_ms
            at = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")
            self._at = f"{at[:-6]}Z"
        if self._also is not None:
            self._also.write(self._at, self._function, stream, text)
        if self._path is None:
            return
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
        if not self._lines or self._path is None:
            return
        text, self._lines, self._waiting = "".join(self._lines), [], 0
        try:
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                if self._began_at is None:
                    self._began_at = self._limits.began_at(self._path, time.time())
                file.write(text)
                size = file.tell()
            if self._limits.is_full(size, time.time() - self._began_at):
                rotate(self._path, self._limits)
                self._began_at = None
            self._broken = False
        except OSError as error:
            if not self._broken:
                extra = {"file": str(self._path), "why": error.strerror}
                logger.warning("function log not written", extra=extra)
            self._broken = True


class FunctionLogs:
    """The log of each function, in `directory/NAME.log`; None: in no file. Lines go to `also`, too."""

    def __init__(
        self, directory: Path | None, limits: LogLimits | None = None, also: Lines | None = None
    ) -> None:
        self._directory = directory
        self._limits = limits or LogLimits()
        self._also = also
        self._logs: dict[str, FunctionLog] = {}
        self._timer: asyncio.TimerHandle | None = None

    def of(self, function: str) -> FunctionLog:
        """The log of one function."""
        if function not in self._logs:
            path = None
            if self._directory is not None:
                self._directory.mkdir(parents=True, exist_ok=True)
                path = self._directory / f"{function}.log"
            self._logs[function] = FunctionLog(function, path, self._limits, self._also)
            if self._timer is None:
                self._look()
        return self._logs[function]

    def flush(self) -> None:
        """Put what waits into the files."""
        for log in self._logs.values():
            log.flush()

    def close(self) -> None:
        """Write all lines, and let go of the other place that lines go to."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._also is not None:
            self._also.close()

    def _look(self) -> None:
        """Remove what is too old, of functions that are no more as well."""
        if self._directory is not None and self._limits.max_age_s is not None:
            _attempt(lambda directory: remove_old(directory, self._limits, time.time()), self._directory)
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)


def _attempt(work: Callable[[Path], int], directory: Path) -> None:
    try:
        removed = work(directory)
    except OSError as error:
        logger.warning("old function logs not removed", extra={"why": error.strerror})
        return
    if removed:
        logger.info("function logs removed, they are too old", extra={"files": removed})
