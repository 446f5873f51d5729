"""The files of an image as a user has it: a folder, or a tar that is not unpacked."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias

import msgspec

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.functions.confined.region import Region
from millstream.functions.confinement import Bounds, CannotTakeApart, Child

FORMS = "a folder with an OCI layout, or a tar of `docker save`"

BOUNDS = Bounds(cpu_s=900, deadline_s=3600.0)
"""Bounds of a child that takes apart as much as an image may have, twice."""

ROOM_BYTES = 11 * 1000**3
"""Largest tar of an image, or of a layer, uncompressed: an image, and what tars add to files."""

NAMES_BYTES = 64 << 20
"""Most that the names of a tar's entries may have together."""

HOPS = 40

Listed: TypeAlias = tuple[str, str, bool, int, str, int]
"""An entry as the child says it: name, kind, whether it may be executed, size, link, offset of its bytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a tar. `kind`: file, sparse, folder, link, hard, other."""

    name: str
    kind: str
    executable: bool
    size: int
    link: str
    offset: int


def refused(wanted: str, found: str) -> InvalidConfiguration:
    """The error of an image that cannot be used."""
    return InvalidConfiguration([Problem("", "image", wanted, found)])


@contextmanager
def reading_image(path: Path) -> Iterator[None]:
    """Turns what is wrong with an image's files into the user's problem.

    Raises:
        InvalidConfiguration: instead of what the block raised.
    """
    try:
        yield
    except (CannotTakeApart, msgspec.MsgspecError, RecursionError) as error:
        raise refused("an image that can be read", f"{path}: {error}") from error
    except OSError as error:
        raise refused("an image that can be read", f"{path}: {error.strerror or error}") from error


def members(child: Child, region: Region, *, packed: bool, data: bool) -> Iterator[Member]:
    """The entries of a tar, which `child` reads. With `data`, the bytes of each regular file come next.

    Raises:
        CannotTakeApart, msgspec.ValidationError: it is none, is damaged, or its headers are too many
            or too large.
    """
    child.ask([region.offset, region.size, ROOM_BYTES, packed, data])
    names = 0
    for answer in child.answers():
        for listed in msgspec.convert(answer, list[Listed]):
            member = Member(*listed)
            names += len(member.name) + len(member.link)
            if names > NAMES_BYTES:
                raise CannotTakeApart("names of more than 64 MB")
            yield member


class Files(Protocol):
    """Reads files by their names. A name that is not there, or leads out of the image, is no file."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> AbstractContextManager[Region]:
        """Raises:
        InvalidConfiguration: there is no such file.
        """
        ...


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """The files of an image.

    Raises:
        InvalidConfiguration: there is none at `path`.
    """
    if path.is_dir():
        yield _FolderFiles(path)
        return
    if not path.exists():
        raise refused(FORMS, f"nothing at {path}")
    if not path.is_file():
        raise refused(FORMS, f"another kind of file, {path}")
    with reading_image(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = Region(descriptor, 0, os.fstat(descriptor).st_size)
        try:
            with Child("tar", descriptor, BOUNDS) as child:
                found = {_name(each.name): each for each in members(child, whole, packed=False, data=False)}
        except (CannotTakeApart, msgspec.ValidationError) as error:
            raise refused(FORMS, f"another kind of file, {path}: {error}") from error
        yield _TarFiles(descriptor, found)
    finally:
        os.close(descriptor)


class _FolderFiles:
    def __init__(self, path: Path) -> None:
        self._root = Path(os.path.realpath(path))

    def has(self, name: str) -> bool:
        place = Path(os.path.realpath(self._root / name))
        return place.is_relative_to(self._root) and place.is_file()

    @contextmanager
    def open(self, name: str) -> Iterator[Region]:
        if not self.has(name):
            raise refused(f"a file {name} in the image", "none")
        with reading_image(self._root):
            descriptor = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield Region(descriptor, 0, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)


class _TarFiles:
    def __init__(self, descriptor: int, found: Mapping[str, Member]) -> None:
        self._descriptor, self._found = descriptor, found

    def has(self, name: str) -> bool:
        return self._file(name) is not None

    @contextmanager
    def open(self, name: str) -> Iterator[Region]:
        file = self._file(name)
        if file is None:
            raise refused(f"a file {name} in the image", "none")
        yield Region(self._descriptor, file.offset, file.size)

    def _file(self, name: str) -> Member | None:
        """The regular file of a name; `docker save` has links from one layer's file to another's."""
        for _ in range(HOPS):
            member = self._found.get(name)
            if member is None or member.kind == "file":
                return member
            if member.kind not in ("link", "hard"):
                return None
            above = posixpath.dirname(name) if member.kind == "link" else ""
            name = posixpath.normpath(posixpath.join(above, member.link))
        return None


def _name(name: str) -> str:
    return PurePosixPath(name).as_posix()
