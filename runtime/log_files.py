"""Bounds of the size and age of functions' logs: the files NAME.log, and before it NAME.log.1, .2, …"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

MB = 1024 * 1024
FILE_BYTES = 10 * MB
"""A file that has grown to this becomes NAME.log.1; a smaller limit has it happen sooner."""

MAX_BYTES = 20 * MB
"""The log of one function may have so many bytes, by the default of `LogLimits`."""

PARTS = 10
"""A file spans this part of the age that lines may have."""

SHORTEST_S = 3600.0
TIME_BYTES = len("2026-01-01T00:00:00.000Z")

_OLD = re.compile(r"\.log\.(\d{1,6})")


@dataclass(frozen=True, slots=True)
class LogLimits:
    """For each function; `max_age_s` None: as old as its size allows."""

    max_bytes: int = MAX_BYTES
    max_age_s: float | None = None

    @property
    def file_bytes(self) -> int:
        """The most bytes of the file that is written to."""
        return max(1, min(FILE_BYTES, self.max_bytes // 2))

    def is_full(self, size_bytes: int, age_s: float) -> bool:
        """True if another file is to be begun."""
        old = self.max_age_s is not None and age_s > max(self.max_age_s / PARTS, SHORTEST_S)
        return size_bytes > self.file_bytes or old

    def began_at(self, path: Path, now: float) -> float:
        """The time at which the file was begun, by its first line: another daemon may have done so."""
        with suppress(ValueError), path.open("rb") as file:
            return min(now, datetime.fromisoformat(file.read(TIME_BYTES).decode()).timestamp())
        return now


def rotate(path: Path, limits: LogLimits) -> None:
    """Make the file that is written to the newest old one; remove what is too much. Raises OSError."""
    before = old_files(path)
    for number in sorted(before, reverse=True):
        before[number].rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))
    size_bytes = limits.file_bytes  # what the next one may become
    for _, old in sorted(old_files(path).items()):
        size_bytes += old.stat().st_size
        if size_bytes > limits.max_bytes + limits.file_bytes // 2:  # one is a little longer than that
            old.unlink()


def old_files(path: Path) -> dict[int, Path]:
    """The files before it, by their numbers; 1 is the newest."""
    found = {}
    for each in path.parent.glob(f"{path.name}.*"):
        if matched := _OLD.fullmatch(each.name.removeprefix(path.stem)):
            found[int(matched[1])] = each
    return found


def remove_old(directory: Path, limits: LogLimits, now: float) -> int:
    """Remove files whose last line is too old; how many they were. Raises OSError."""
    removed = 0
    for path in [*directory.glob("*.log"), *directory.glob("*.log.*")]:
        with suppress(FileNotFoundError):
            if limits.max_age_s is not None and now - path.stat().st_mtime > limits.max_age_s:
                path.unlink()
                removed += 1
    return removed
