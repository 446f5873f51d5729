"""A folder or a .zip file as a tree of files, folders and links; nothing of it is unpacked here."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.functions.confined.frames import LARGEST
from millstream.functions.confinement import CannotTakeApart, Child

ENTRIES = 100_000
"""Most entries of a package; more cannot be unpacked in a time that anybody would wait."""

NAMES_BYTES = 64 << 20
"""Most that the names of a .zip file's entries may have together."""

NAME_BYTES, PATH_BYTES = 255, 3072
"""Longest name that a file can have, and longest path that leaves room for where it is unpacked."""

LINK_BYTES = 4096
"""Longest path that a link can hold."""

UNZIPPED_BYTES = 250 * 1024 * 1024
"""Largest package, layers included. Source: AWS, "Lambda quotas"."""


_Listed: TypeAlias = list[tuple[str, int, int, bool]]
"""Entries of a .zip file as the child says them: name, mode, size, whether it is a folder."""


class Kind(Enum):
    """The kind of thing that a name stands for."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"  # a socket, a pipe, a device
    STATE = "state"  # a data directory of a daemon, known by its place


@dataclass(frozen=True, slots=True)
class Found:
    """An entry. `size_bytes` is what the source says; `number` is where a .zip file has it."""

    kind: Kind
    size_bytes: int = 0
    executable: bool = False
    target: str = ""  # of a link
    number: int = -1


class Tree(Protocol):
    """Reads a source. Names are paths in it, the root's is empty.

    Raises, all methods: InvalidConfiguration, for what cannot be read or must not be unpacked.
    """

    def children(self, folder: str) -> Mapping[str, Found]:
        """The entries of a folder, by their names in it."""
        ...

    def read(self, files: Sequence[tuple[str, Found]]) -> Iterator[Iterator[bytes]]:
        """The content of each file, in this order, in chunks; each must be read to its end."""
        ...

    def close(self) -> None: ...


def refused(field: str, wanted: str, found: str) -> InvalidConfiguration:
    """The error of a source that cannot be used. `field` is the option that names it."""
    return InvalidConfiguration([Problem("", field, wanted, found)])


def wrong_kind(path: Path) -> str | None:
    """Tell why a path is neither a folder nor a .zip file. None: it is one."""
    if not path.exists():
        return f"nothing at {path}"
    if path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)):
        return None
    return f"another kind of file, {path.name}"


def open_tree(source: Path, field: str, ours: Collection[Path] = ()) -> Tree:
    """The tree of a folder or a .zip file. `ours` are data directories, which are no part of any."""
    return FolderTree(source, field, ours) if source.is_dir() else ZipTree(source, field)


class FolderTree:
    """Implements Tree for a folder. Links are never followed."""

    def __init__(self, root: Path, field: str, ours: Collection[Path] = ()) -> None:
        self._root, self._field = root.resolve(), field
        self._ours = {os.path.realpath(place) for place in ours}

    def children(self, folder: str) -> Mapping[str, Found]:
        with _reading(self._field), os.scandir(self._root / folder) as entries:
            return {entry.name: self._found(entry) for entry in entries}

    def _found(self, entry: os.DirEntry[str]) -> Found:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return Found(Kind.FILE, status.st_size, bool(status.st_mode & 0o111))
        if stat.S_ISDIR(status.st_mode):
            return Found(Kind.STATE if self._ours and entry.path in self._ours else Kind.FOLDER)
        if stat.S_ISLNK(status.st_mode):
            return Found(Kind.LINK, target=os.readlink(entry.path))
        return Found(Kind.OTHER)

    def read(self, files: Sequence[tuple[str, Found]]) -> Iterator[Iterator[bytes]]:
        return (self._chunks(name) for name, _ in files)

    def _chunks(self, name: str) -> Iterator[bytes]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with _reading(self._field):
            descriptor = os.open(self._root / name, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was a file a moment ago
                raise refused(self._field, "files that stay as they are while they are read", shown(name))
            while True:
                with _reading(self._field):
                    chunk = os.read(descriptor, LARGEST)
                if not chunk:
                    return
                yield chunk
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nothing is kept open."""


class ZipTree:
    """Implements Tree for a .zip file, which a confined child reads."""

    def __init__(self, path: Path, field: str) -> None:
        self._path, self._field = path, field
        self._folders: dict[str, dict[str, Found]] = {"": {}}
        with _reading(field):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._child: Child | None = None
        try:
            with _reading(field):
                self._child = Child("zip", descriptor)
                self._list(self._child)
        except InvalidConfiguration:
            self.close()
            raise
        finally:
            os.close(descriptor)

    def children(self, folder: str) -> Mapping[str, Found]:
        return self._folders[folder]

    def read(self, files: Sequence[tuple[str, Found]]) -> Iterator[Iterator[bytes]]:
        assert self._child is not None
        for start in range(0, len(files), 1000):
            some = files[start : start + 1000]
            with _reading(self._field):
                self._child.ask([found.number for _, found in some])
            for _ in some:
                yield self._chunks()

    def _chunks(self) -> Iterator[bytes]:
        assert self._child is not None
        chunks = self._child.data()
        while True:
            with _reading(self._field):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _list(self, child: Child) -> None:
        links: list[tuple[list[str], Found]] = []
        number = size = 0
        for batch in child.answers():
            for name, mode, size_bytes, is_folder in msgspec.convert(batch, _Listed):
                size += len(name)
                if number >= ENTRIES or size > NAMES_BYTES:
                    raise self._refused(f"at most {ENTRIES} entries, with short names", "more")
                parts = self._parts(name)
                kind = _kind(mode, is_folder)
                found = Found(kind, size_bytes, bool(mode & 0o111), number=number)
                number += 1
                if parts:
                    self._put(parts, found)
                    if kind is Kind.LINK:
                        links.append((parts, found))
        for (parts, _), target in zip(links, self._targets(links), strict=True):
            self._folders["/".join(parts[:-1])][parts[-1]] = Found(Kind.LINK, target=target)

    def _targets(self, links: Sequence[tuple[list[str], Found]]) -> Iterator[str]:
        for (parts, _), chunks in zip(links, self.read([("", found) for _, found in links]), strict=True):
            target = bytearray()
            for chunk in chunks:
                target += chunk
                if len(target) > LINK_BYTES:
                    raise self._refused("links that stay inside", f"{shown('/'.join(parts))}, too long")
            yield os.fsdecode(bytes(target))

    def _put(self, parts: Sequence[str], found: Found) -> None:
        at = self._folders[""]
        for depth, part in enumerate(parts[:-1], 1):
            above = at.setdefault(part, Found(Kind.FOLDER))
            if above.kind is not Kind.FOLDER:
                wanted = "names that are a file or a folder"
                raise self._refused(wanted, f"{shown('/'.join(parts))}, below a file or a link")
            at = self._folders.setdefault("/".join(parts[:depth]), {})
        before = at.setdefault(parts[-1], found)
        if found.kind is Kind.FOLDER and before.kind is Kind.FOLDER:
            self._folders.setdefault("/".join(parts), {})
        elif before is not found:
            raise self._refused("each name once", f"{shown('/'.join(parts))} twice")

    def _parts(self, name: Any) -> list[str]:
        if not isinstance(name, str) or name.startswith("/") or "\\" in name or "\0" in name:
            raise self._refused("names that stay inside the package", f"{shown(name)} in {self._path.name}")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._refused("names that stay inside the package", f"{shown(name)} in {self._path.name}")
        return parts

    def _refused(self, wanted: str, found: str) -> InvalidConfiguration:
        return refused(self._field, wanted, found)


def shown(name: object) -> str:
    """A name as a message has it: one line, and not a long one."""
    text = str(name)
    if len(text) > 80:
        text = f"{text[:60]}…{text[-15:]}"
    return text if text.isprintable() else repr(text)


def fits(name: str) -> bool:
    """True: a file can have this path."""
    try:
        parts = os.fsencode(name).split(b"/")
    except UnicodeEncodeError:
        return False
    return sum(map(len, parts)) <= PATH_BYTES and max(map(len, parts)) <= NAME_BYTES


def _kind(mode: int, is_folder: bool) -> Kind:
    kinds = {0: Kind.FILE, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.FOLDER}
    return Kind.FOLDER if is_folder else kinds.get(stat.S_IFMT(mode), Kind.OTHER)


@contextmanager
def _reading(field: str) -> Iterator[None]:
    """Turns what cannot be read into the user's problem."""
    try:
        yield
    except OSError as error:
        found = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        raise refused(field, f"{field} that can be read", found) from error
    except (CannotTakeApart, msgspec.ValidationError) as error:
        raise refused(field, "a .zip file that can be unpacked", str(error)) from error
