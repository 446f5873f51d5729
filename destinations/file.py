"""A local JSON-lines file as a destination: one line a record, on disk before the receipt is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import Field

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import DestinationUnavailable, InvalidConfiguration, Problem
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord
from millstream.contract.records import DestinationReceipt

SCHEME = "file:"


class FileDestinationOptions(Options):
    """`target` is `file:PATH` (relative to the daemon's folder) or `file:///PATH`."""

    target: str = Field(pattern=r"^file:.+$", description="file:PATH")


class FileDestination:
    """Implements Destination."""

    limit_bytes = None

    def __init__(self, options: FileDestinationOptions) -> None:
        self.name = options.target
        self._path = Path(unquote(urlsplit(options.target).path))
        self._thread = BlockingClient("file-destination", 1)

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(SCHEME)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(FileDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._thread = BlockingClient("file-destination", 1)
        try:
            await self._thread.call(self._append, b"")
        except DestinationUnavailable as error:
            wanted = f"a file that can be appended to ({self._path})"
            raise InvalidConfiguration([Problem("", "destination", wanted, str(error))]) from error

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        await self._thread.call(self._append, record.body + b"\n")
        return DestinationReceipt(self.name)

    def _append(self, line: bytes) -> None:
        """Append a line and sync it. What a full disk took of it is cut off again."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                end = self._end_of_lines(descriptor)
                if os.write(descriptor, line) != len(line):
                    os.ftruncate(descriptor, end)
                    raise DestinationUnavailable(f"{self.name}: no room")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DestinationUnavailable(f"{self.name}: {error.strerror}") from error

    def _end_of_lines(self, descriptor: int) -> int:
        """Where the last whole line ends; half a line that a crash left is given its end."""
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
            size += 1
        return size

    async def aclose(self) -> None:
        self._thread.close()
