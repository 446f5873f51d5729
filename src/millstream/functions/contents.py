"""What a folder or a .zip file holds, without unpacking it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.contract.errors import InvalidConfiguration, Problem

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
"""What zipfile raises on a file that is damaged, encrypted, or compressed in an unknown way."""


@contextmanager
def reading(field: str) -> Iterator[None]:
    """Turns what cannot be read into the user's problem.

    Raises:
        InvalidConfiguration: naming `field`, instead of what the block raised.
    """
    try:
        yield
    except OSError as error:
        found = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        raise InvalidConfiguration([Problem("", field, f"{field} that can be read", found)]) from error
    except ZIP_ERRORS as error:
        wanted = "a .zip file that can be unpacked"
        raise InvalidConfiguration([Problem("", field, wanted, str(error))]) from error


def wrong_kind(path: Path) -> str | None:
    """Why a path is neither a folder nor a .zip file. None: it is."""
    if not path.exists():
        return f"nothing at {path}"
    if path.is_dir() or zipfile.is_zipfile(path):
        return None
    return f"another kind of file, {path.name}"


class Contents:
    """Reads single files of a package or a layer, by their names in it. Raises what `reading` maps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = None if path.is_dir() else zipfile.ZipFile(path)

    def close(self) -> None:
        """Let go of the file."""
        if self._zip is not None:
            self._zip.close()

    def has(self, name: str) -> bool:
        """True: a file has this name."""
        if self._zip is None:
            return (self.path / name).is_file()
        return name in self._zip.NameToInfo

    def executable(self, name: str) -> bool:
        """True: a file has this name, and somebody may execute it."""
        if not self.has(name):
            return False
        if self._zip is None:
            return bool((self.path / name).stat().st_mode & 0o111)
        return bool(self._zip.getinfo(name).external_attr >> 16 & 0o111)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file. None: there is none of this name."""
        if not self.has(name):
            return None
        return (self.path / name).read_bytes() if self._zip is None else self._zip.read(name)

    def beside(self, folder: str, wanted: Callable[[str], bool]) -> bool:
        """True: a file right in this folder (empty: the root) has a name that is wanted."""
        if self._zip is None:
            place = self.path / folder
            return place.is_dir() and any(wanted(each.name) for each in place.iterdir())
        prefix = f"{folder}/" if folder else ""
        names = (name.removeprefix(prefix) for name in self._zip.NameToInfo if name.startswith(prefix))
        return any("/" not in name and wanted(name) for name in names)


def is_link(info: zipfile.ZipInfo) -> bool:
    """True: the entry's bytes are where a symbolic link points."""
    return stat.S_ISLNK(info.external_attr >> 16)
