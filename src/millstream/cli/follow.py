"""Reads a function's log file from its end, and on."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from millstream.contract.errors import MillstreamError
from millstream.contract.plain_text import plain

LOOK_EVERY_S = 0.2


def log_lines(folder: Path, function: str, last: int, follow: bool) -> Iterator[str]:
    """The last lines of a function's log, then, if `follow`, those that come.

    What is no UTF-8 is in them as Python's surrogateescape has it.

    Raises:
        MillstreamError: there is no log of that function.
    """
    path = folder / f"{function}.log"
    try:
        file = _opened(path)
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.log"))) or "none yet"
        raise MillstreamError(f"{function}: wanted a function with a log ({known}), found none") from error
    with file:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=last))
    if follow:
        yield from _coming(path)


def _coming(path: Path) -> Iterator[str]:
    """Lines that are appended from now on; a file that is rotated is read on from its new start."""
    file = _opened(path)
    file.seek(0, 2)
    rest = ""
    try:
        while True:
            if text := file.read():
                *lines, rest = (rest + text).split("\n")
                yield from lines
                continue
            if path.exists() and path.stat().st_ino != _inode(file.fileno()):
                file.close()
                file = _opened(path)
            time.sleep(LOOK_EVERY_S)
    finally:
        file.close()


def shown_line(line: str) -> str:
    """A line as a terminal may have it: a function writes what it likes."""
    return plain(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), "\t")


def raw_line(line: str) -> bytes:
    """A line as it was written."""
    return line.encode("utf-8", "surrogateescape")


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="surrogateescape", newline="\n")


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino
