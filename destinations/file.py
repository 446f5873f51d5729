"""A local JSON-lines file as a destination: one line a record, on disk before the receipt is given."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator

from millstream.contract import outside_json
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, Refused
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import parse_target

SCHEME = "file:"
LOCKED_S = 10.0
"""How long another writer of the file is waited for."""

_TAIL_BYTES = 64 * 1024


def _file(target: str) -> str:
    if not target.startswith(SCHEME) or "\0" in target or _path(target) in ("", "/"):
        raise ValueError("a file (file:failed.jsonl, file:///var/lib/failed.jsonl)")
    if target.startswith(f"{SCHEME}//") and urlsplit(target).netloc not in ("", "localhost"):
        raise ValueError("a file of this host (file:failed.jsonl, file:///var/lib/failed.jsonl)")
    return target


def _path(target: str) -> str:
    """The path of `file:PATH`, as it stands, or of `file:///PATH`, whose escapes are undone."""
    path = target.removeprefix(SCHEME)
    return unquote(path.partition("//")[2].removeprefix("localhost")) if path.startswith("//") else path


class FileDestinationOptions(Options):
    """`target` is `file:PATH`, relative to the daemon's current folder, or `file:///PATH`."""

    target: Annotated[str, AfterValidator(_file)]


class _CannotBeAppendedTo(DestinationUnavailable):
    """A path that somebody must mend: a folder that is missing, a right that is."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.why = why


class FileDestination:
    """Implements Destination."""

    limit_bytes = None
    payload = Payload.EVENT

    def __init__(self, options: FileDestinationOptions) -> None:
        self.name = options.target
        self._path = Path(_path(options.target))
        self._thread: BlockingClient | None = None

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(SCHEME)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(FileDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._path = self._path.absolute()
        thread = BlockingClient("file-destination", 1)
        with ExitStack() as undo:
            undo.callback(thread.close)
            try:
                await thread.call(self._append, b"")
            except _CannotBeAppendedTo as error:
                raise Refused(f"{self._path} cannot be appended to: {error.why}") from error
            undo.pop_all()
        self._thread = thread

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        if self._thread is None:
            raise DestinationUnavailable(f"{self.name}: closed")
        # Outside of strings, where alone JSON may hold them, line ends are but blanks.
        line = record.body.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
        try:
            await self._thread.call(self._append, line)
        except RuntimeError as error:  # this host can have no further thread now
            raise DestinationUnavailable(f"{self.name}: {error}") from error
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _append(self, line: bytes) -> None:
        """Append a line and sync it; what could not be written whole is cut off again."""
        try:
            with self._locked() as descriptor:
                end = _mended(descriptor)
                try:
                    _write(descriptor, line)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
        except (IsADirectoryError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise _CannotBeAppendedTo(self.name, str(error.strerror)) from error
        except (OSError, ValueError) as error:  # ValueError: of a path that the host's encoding has not
            why = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise DestinationUnavailable(f"{self.name}: {why}") from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, created where it is missing, and no other writer of ours in it."""
        new = not self._path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _CannotBeAppendedTo(self.name, "not a regular file")
            if new:
                _sync_folder(self._path.parent)
            self._lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        until = time.monotonic() + LOCKED_S
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)


def _write(descriptor: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        written += os.write(descriptor, line[written:])


def _mended(descriptor: int) -> int:
    """Where the last whole line ends, once the half of a record that a crash left is cut off.

    Nothing is lost with it: its receipt was never given. A last line that is whole, or is no record
    of ours, is given its line end instead.
    """
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - _TAIL_BYTES)
        tail = os.pread(descriptor, size - start, start)
    last = tail.rpartition(b"\n")[2]
    if last.startswith(b"{") and not _is_json(last):
        os.ftruncate(descriptor, size - len(last))
        return size - len(last)
    os.write(descriptor, b"\n")
    return size + 1


def _is_json(text: bytes) -> bool:
    try:
        outside_json.read(text)
    except outside_json.NotJson:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
