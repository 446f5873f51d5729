"""The files of an image as a user has it: a folder, or a tar that is not unpacked."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import msgspec

from millstream.contract.errors import InvalidConfiguration, Problem

FORMS = "a folder with an OCI layout, or a tar of `docker save`"


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
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, msgspec.DecodeError) as error:
        raise refused("an image that can be read", f"{path}: {error}") from error
    except OSError as error:
        raise refused("an image that can be read", f"{path}: {error.strerror or error}") from error


class Files(Protocol):
    """Reads files by their names. A name that is not there, or leads out of the image, is no file."""

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
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
    elif not path.exists():
        raise refused(FORMS, f"nothing at {path}")
    else:
        try:
            archive = tarfile.open(path, "r:")  # noqa: SIM115  closed below
        except (tarfile.TarError, OSError) as error:
            raise refused(FORMS, f"another kind of file, {path}") from error
        with archive:
            with reading_image(path):
                names = {_name(member.name): member for member in archive.getmembers()}
            yield _TarFiles(path, archive, names)


class _FolderFiles:
    def __init__(self, path: Path) -> None:
        self._root = Path(os.path.realpath(path))

    def has(self, name: str) -> bool:
        place = Path(os.path.realpath(self._root / name))
        return place.is_relative_to(self._root) and place.is_file()

    def open(self, name: str) -> IO[bytes]:
        if not self.has(name):
            raise refused(f"a file {name} in the image", "none")
        with reading_image(self._root):
            return (self._root / name).open("rb")


class _TarFiles:
    def __init__(self, path: Path, archive: tarfile.TarFile, names: dict[str, tarfile.TarInfo]) -> None:
        self._path, self._archive, self._names = path, archive, names

    def has(self, name: str) -> bool:
        member = self._names.get(name)
        return member is not None and (member.isreg() or member.issym() or member.islnk())

    def open(self, name: str) -> IO[bytes]:
        with reading_image(self._path):
            try:
                found = self._archive.extractfile(self._names[name])
            except KeyError:  # of the name, or of what a link in the tar points to
                found = None
        if found is None:
            raise refused(f"a file {name} in the image", "none")
        return found


def _name(name: str) -> str:
    return PurePosixPath(name).as_posix()
