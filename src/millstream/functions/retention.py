"""Keeps the folders of a data directory that are in use, and removes others.

Whoever uses a folder holds a shared lock on it, which the kernel frees when its process ends. What can be
locked for one process alone is used by nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.errors import StateUnavailable

HIDDEN = "."
"""Beginnings of the names of folders that are being made or removed."""

REMOVING = ".old-"

BLOCK_BYTES = 512
"""Unit of `st_blocks`. Source: POSIX, sys_stat.h."""


@dataclass(frozen=True, slots=True)
class Removed:
    """An account of a removal. `in_use`: folders that were left, for somebody uses them."""

    folders: int = 0
    size_bytes: int = 0
    in_use: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            self.folders + other.folders, self.size_bytes + other.size_bytes, self.in_use + other.in_use
        )


def hold(folder: Path) -> int | None:
    """A descriptor that keeps a folder until it is closed. None: the folder is gone."""
    descriptor = _locked(folder, fcntl.LOCK_SH)
    if descriptor is not None:
        with suppress(OSError):  # of a read-only directory; it is the time of its last use
            os.utime(folder)
    return descriptor


def remove_unused(store: Path, keep: int) -> Removed:
    """Remove what nobody uses, but for the `keep` folders that were used last; and what was left half made.

    Raises:
        StateUnavailable: `store` cannot be written.
    """
    removed = Removed()
    with _writing(store):
        folders = [Path(entry) for entry in os.scandir(store) if entry.is_dir(follow_symlinks=False)]
        ready = [folder for folder in folders if not folder.name.startswith(HIDDEN)]
        for folder in [each for each in folders if each.name.startswith(HIDDEN)]:
            removed += _remove(folder)
        for folder in sorted(ready, key=_used_at, reverse=True):
            if keep and (descriptor := _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
                os.close(descriptor)
                keep -= 1
                continue
            removed += _remove(folder)
    return removed


def _remove(folder: Path) -> Removed:
    """Remove a folder unless it is in use. Its name goes first, so that nobody takes a half for the whole."""
    descriptor = _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor is None:
        return Removed(in_use=int(folder.exists() and not folder.name.startswith(HIDDEN)))
    try:
        size = _freed(folder)
        going = folder
        if not folder.name.startswith(HIDDEN):
            going = folder.with_name(f"{REMOVING}{folder.name}")
            folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)
        return Removed(1, size)
    finally:
        os.close(descriptor)


def _locked(folder: Path, how: int) -> int | None:
    """A descriptor of a folder, locked. None: it is gone, or held by others."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    kept = False
    try:
        fcntl.flock(descriptor, how)
        kept = os.path.samestat(os.stat(folder), os.fstat(descriptor))  # else it went while we waited
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if not kept:
            os.close(descriptor)
    return descriptor if kept else None


def _used_at(folder: Path) -> float:
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def _freed(folder: Path) -> int:
    """Bytes on disk that nothing but this folder has: the layers of functions share files with their /opt."""
    names: dict[int, int] = {}
    size = 0
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = os.lstat(os.path.join(place, name))
            names[found.st_ino] = names.get(found.st_ino, 0) + 1
            if stat.S_ISDIR(found.st_mode) or names[found.st_ino] == found.st_nlink:
                size += found.st_blocks * BLOCK_BYTES
    return size


@contextmanager
def _writing(store: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:  # nothing was ever deployed
        return
    except OSError as error:
        wanted = "wanted a directory that can be written"
        raise StateUnavailable(f"{store}: {wanted}, found: {error.strerror or error}") from error
