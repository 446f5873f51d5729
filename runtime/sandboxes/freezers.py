"""Freezes environments by cgroups, each by one of its own, where the host has those of version 2.

A signal stops a process until another one, which it may have sent itself, continues it. The kernel wakes what
a cgroup has frozen for nothing but its end. In version 1 not even for that: a frozen process could not be
killed, and would be left when a daemon is. So there, and where the host allows no cgroup, signals stop them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from millstream.runtime.sandboxes.controllers import FREEZE, write


class Freezers:
    """The cgroups of all environments of one function, below its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = 0
        self._left: list[Path] = []

    def make(self) -> Freezer:
        """One more, with nothing in it. Raises OSError."""
        self._left = [folder for folder in self._left if not removed(folder)]
        self._last += 1
        folder = self._folder / str(self._last)
        folder.mkdir()
        return Freezer(folder, self._drop)

    def _drop(self, folder: Path) -> None:
        """Remove one; later, if the kernel is not done with the processes that were in it."""
        if not removed(folder):
            self._left.append(folder)


class Freezer:
    """The cgroup of one environment. Its first process starts all others, so they are in it, too."""

    def __init__(self, folder: Path, drop: Callable[[Path], None]) -> None:
        self._folder = folder
        self._drop = drop

    def take(self, pid: int) -> None:
        """Have a process in it, and all that it will fork; takes some milliseconds. Raises OSError."""
        write(self._folder / "cgroup.procs", pid)

    def freeze(self) -> None:
        """Keep all of it from running; returns at once. Raises OSError."""
        write(self._folder / FREEZE, 1)

    def thaw(self) -> None:
        """Let it run. Raises OSError."""
        write(self._folder / FREEZE, 0)

    def close(self) -> None:
        """Remove it: what was in it has ended, or never came."""
        self._drop(self._folder)


def removed(folder: Path) -> bool:
    """True if a group is gone, with all below it; False while processes are left in one of them."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        with contextlib.suppress(OSError):
            below = [path for path in folder.iterdir() if path.is_dir()]
            gone = [removed(path) for path in below]
            if below and all(gone):
                folder.rmdir()
                return True
        return False
    return True
