"""How drivers start `zygote/launch.py`: told by a descriptor, for a command line is anybody's to read."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from millstream.runtime import zygote

UMASK = 0o022
"""The umask of functions, as on AWS, whatever the daemon's is."""

LAUNCHER = Path(zygote.__file__).resolve().parent / "launch.py"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sandbox's processes are to the host; as it is, the daemon's own user."""

    uid: int | None = None  # and gid; with `maps`, the number within
    maps: Sequence[Sequence[str]] = ()  # see the launcher


@dataclass(frozen=True, slots=True)
class Launch:
    """A command; if it is the launcher, `told` is what it reads."""

    command: Sequence[str]
    told: Mapping[str, Any] | None = None

    @contextmanager
    def opened(self) -> Iterator[tuple[list[str], list[int]]]:
        """The whole command, and the descriptors that it takes with it. Raises OSError."""
        if self.told is None:
            yield [*self.command], []
            return
        with _unnamed_file() as file:
            file.write(json.dumps(self.told).encode())
            file.seek(0)
            yield [*self.command, str(file.fileno())], [file.fileno()]


def launched(told: Mapping[str, Any]) -> Launch:
    """Start the launcher, which is told this: see its own file."""
    return Launch([sys.executable, "-I", "-S", str(LAUNCHER)], told)


def _unnamed_file() -> IO[bytes]:
    has_memory_files = hasattr(os, "memfd_create")  # of Linux
    return open(os.memfd_create("launch"), "w+b") if has_memory_files else tempfile.TemporaryFile()
