"""Writes an image's files below a folder, whatever their names and links say.

The kernel is never asked to follow a link of the image: names are resolved here, step by step, as if
the folder were the root. Nobody else writes in the folder meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from millstream.functions.images.files import refused
from millstream.functions.walk import DEPTH

HOPS = 40
"""Links that one name may lead through, as on Linux."""

_UNNAMEABLE = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turns a name that no file can have into the user's problem; other OSErrors are the store's.

    Raises:
        InvalidConfiguration: it is such a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNNAMEABLE:
            raise
        raise refused("names that a file can have", f"{name[:80]!r}: {error.strerror}") from error


class Tree:
    """A file system being made. Names come as their parts, without `..`; never empty.

    Raises, all of them: InvalidConfiguration for a name below a file, too deep, or in a circle of links;
    OSError if the folder cannot be written.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def folder(self, parts: Sequence[str]) -> None:
        """A folder; one that is there keeps what it has."""
        place = self._place(parts)
        found = _kind(place)
        if found is None or not stat.S_ISDIR(found):
            _clear(place)
            _make_folder(place)

    def file(self, parts: Sequence[str], content: Iterable[bytes], executable: bool) -> None:
        """A file in place of whatever has its name. Anybody may read it, nobody else write it."""
        place = self._place(parts)
        _clear(place)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(place, flags, 0o600), "wb") as out:
            for chunk in content:
                out.write(chunk)
            os.fchmod(out.fileno(), 0o755 if executable else 0o644)

    def link(self, parts: Sequence[str], target: str) -> None:
        """A symbolic link, kept as it is."""
        place = self._place(parts)
        _clear(place)
        os.symlink(target, place)

    def hard_link(self, parts: Sequence[str], target: Sequence[str]) -> None:
        """A second name for a file, or for a link, that is there."""
        folder = self._resolve(target[:-1], create=False)
        source = None if folder is None else f"{folder}/{target[-1]}"
        place = self._place(parts)
        if source == place:
            return
        _clear(place)
        found = None if source is None else _kind(source)
        if source is None or found is None or stat.S_ISDIR(found):
            raise refused("hard links to files of the image", f"{'/'.join(parts)} to {'/'.join(target)}")
        try:
            os.link(source, place, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            shutil.copy2(source, place, follow_symlinks=False)

    def remove(self, parts: Sequence[str]) -> None:
        """Whatever has this name is gone; not what a link of this name points to."""
        folder = self._resolve(parts[:-1], create=False)
        if folder is not None:
            _clear(f"{folder}/{parts[-1]}")

    def empty(self, parts: Sequence[str]) -> None:
        """A folder holds nothing any more; parts may be empty, for the root."""
        folder = self._resolve(parts, create=False)
        if folder is not None:
            for name in os.listdir(folder):
                _clear(f"{folder}/{name}")

    def _place(self, parts: Sequence[str]) -> str:
        return f"{self._resolve(parts[:-1], create=True)}/{parts[-1]}"

    def _resolve(self, parts: Sequence[str], *, create: bool) -> str | None:
        """The real folder of a name. None: it is not there, and was not to be made."""
        at: list[str] = []
        todo = deque(parts)
        hops = 0
        while todo:
            part = todo.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                del at[-1:]
                continue
            place = "/".join([self._root, *at, part])
            found = _kind(place)
            if found is not None and stat.S_ISLNK(found):
                hops += 1
                if hops > HOPS:
                    raise refused("links that lead somewhere", f"{'/'.join(parts)[:80]}, a circle of links")
                target = os.readlink(place)
                at = [] if target.startswith("/") else at
                todo.extendleft(reversed(target.split("/")))
                continue
            if found is None or not stat.S_ISDIR(found):
                if not create:
                    return None
                if found is not None:
                    raise refused("names that are a file or a folder", f"{'/'.join(parts)[:80]}, a file")
                if len(at) >= DEPTH:
                    raise refused(f"at most {DEPTH} folders in one another", "more")
                _make_folder(place)
            at.append(part)
        return "/".join([self._root, *at])


def _kind(place: str) -> int | None:
    """The mode of what has this very name. None: nothing has."""
    try:
        return os.lstat(place).st_mode
    except FileNotFoundError:
        return None


def _make_folder(place: str) -> None:
    os.mkdir(place)
    os.chmod(place, 0o755)


def _clear(place: str) -> None:
    found = _kind(place)
    if found is None:
        return
    if stat.S_ISDIR(found):
        shutil.rmtree(place)
    else:
        os.unlink(place)
