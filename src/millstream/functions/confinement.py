"""Starts a confined child, in which foreign bytes are taken apart, and speaks with it.

The child has no root, no file but the one that it is given, and bounded memory and time. What it
answers is as foreign as what it was given: frames are bounded, and whoever uses them checks the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import pathspec

import millstream
from millstream.contract.errors import MillstreamError
from millstream.functions.confined import frames
from millstream.functions.confined.frames import LARGEST, Kind

USER = 62992
"""The user that a root daemon's child becomes: no account, and none that functions are."""

_PROGRAM = """
import sys
sys.path += sys.argv[1:3]
del sys.argv[1:3]
from millstream.functions.confined.child import main
main()
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a child. `deadline_s` is of the clock on the wall, the daemon's own work included."""

    cpu_s: int = 60
    deadline_s: float = 300.0
    memory_bytes: int = 1 << 30


class CannotTakeApart(MillstreamError):
    """A child says why it cannot take something apart, or ended while it tried."""


class Child:
    """A confined child; used as a context manager. `task` is one of `confined.child`.

    Raises, all methods: CannotTakeApart.
    """

    def __init__(self, task: str, source: int | None = None, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        paths = [Path(module.__file__ or "").parents[1] for module in (millstream, pathspec)]
        numbers = (-1 if source is None else source, USER, self._bounds.cpu_s, self._bounds.memory_bytes)
        command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", _PROGRAM]
        command += [*map(str, paths), task, *map(str, numbers)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=() if source is None else (source,),
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                start_new_session=True,  # a Ctrl-C is the daemon's to hear
            )
        except OSError as error:
            raise CannotTakeApart(f"no process to be had: {error.strerror}") from error
        self._late = False
        self._timer = threading.Timer(self._bounds.deadline_s, self._end_late)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # of what it did not read
                pipe.close()

    def ask(self, value: object) -> None:
        """Send a request."""
        self._write(frames.write_value, value)
        self._flush()

    def send(self, data: bytes) -> None:
        """Send bytes that belong to the request, and their end."""
        for start in range(0, len(data), LARGEST):
            self._write(frames.write, Kind.DATA, data[start : start + LARGEST])
        self._write(frames.write, Kind.END)
        self._flush()

    def answer(self) -> Any:
        """The next value. None may be one, so the end of a list is `CannotTakeApart`, too."""
        kind, body = self._read()
        if kind != Kind.VALUE:
            raise CannotTakeApart("it ended")
        return self._value(body)

    def answers(self) -> Iterator[Any]:
        """Values up to the end of a list. More may be read of the child between two of them."""
        while True:
            kind, body = self._read()
            if kind == Kind.END:
                return
            if kind != Kind.VALUE:
                raise CannotTakeApart("it ended")
            yield self._value(body)

    def data(self) -> Iterator[bytes]:
        """Chunks up to the end of a file."""
        while True:
            kind, body = self._read()
            if kind == Kind.END:
                return
            if kind != Kind.DATA:
                raise CannotTakeApart("it ended")
            yield body

    def _read(self) -> tuple[Kind, bytes]:
        try:
            kind, body = frames.read(cast(BinaryIO, self._process.stdout))
        except frames.Over:
            raise self._ended() from None
        if kind == Kind.FAULT:
            raise CannotTakeApart(str(self._value(body))[:300])
        return kind, body

    def _value(self, body: bytes) -> Any:
        try:
            return frames.value(body)
        except frames.Over:
            raise self._ended() from None

    def _write(self, write: Any, *arguments: object) -> None:
        try:
            write(self._process.stdin, *arguments)
        except OSError:
            raise self._ended() from None

    def _flush(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _end_late(self) -> None:
        self._late = True
        self._process.kill()

    def _ended(self) -> CannotTakeApart:
        """End it, and tell why nothing comes of it any more."""
        self._process.kill()
        status = self._process.wait()
        if self._late:
            return CannotTakeApart(f"more than {self._bounds.deadline_s:g} s needed")
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            return CannotTakeApart(
                f"more than {self._bounds.cpu_s} s of CPU time, or too much memory, needed"
            )
        return CannotTakeApart("it cannot be read")
