"""Folders that are made once for each content, never changed, never half there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.errors import StateUnavailable
from millstream.functions.retention import HIDDEN, hold
from millstream.functions.trees import Kind, refused, shown
from millstream.functions.walk import Entry, Listing

STAGING = f"{HIDDEN}new-"
"""How the names of folders begin that are not ready yet."""

_UNNAMEABLE = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of a store, and what its files have together."""

    folder: Path
    size_bytes: int


@contextmanager
def staging(store: Path) -> Iterator[Path]:
    """A new folder below `store`, held against removal, gone at the end.

    Raises:
        StateUnavailable: `store` cannot be written; any OSError of the block is taken for that.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        while True:
            folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=store))
            if (descriptor := hold(folder)) is not None:
                break  # else `millstream prune` took it for one that was left
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
    except OSError as error:
        wanted = "wanted room for the functions' code"
        raise StateUnavailable(f"{store}: {wanted}, found: {error.strerror or error}") from error


def settle(made: Path, target: Path) -> Path:
    """Give a finished folder its name; another process may have made the same one first."""
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
    return target


class Writer:
    """Writes a listing below a new folder. Everybody may read it, whatever the umask."""

    def __init__(self, folder: Path, option: str) -> None:
        self._folder, self._option = folder, option
        self._made: set[str] = set()

    def place(self, listing: Listing) -> None:
        """Make all folders and links; nothing is written through a link, for none has a name below it."""
        self._make("")
        for entry in listing.entries:
            with self._naming(entry.name):
                if entry.found.kind is Kind.FOLDER:
                    self._make(entry.name)
                    continue
                self._make(os.path.dirname(entry.name))
                if entry.found.kind is Kind.LINK:
                    os.symlink(entry.found.target, self._folder / entry.name)

    def write(self, entry: Entry, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks of a file, each written before it is passed on."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._naming(entry.name):
            descriptor = os.open(self._folder / entry.name, flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            for chunk in chunks:
                out.write(chunk)
                yield chunk
            os.fchmod(descriptor, 0o755 if entry.found.executable else 0o644)

    def _make(self, folder: str) -> None:
        if folder in self._made:
            return
        if folder:
            self._make(os.path.dirname(folder))
        place = self._folder / folder
        place.mkdir()
        place.chmod(0o755)
        self._made.add(folder)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """A name that no file can have here is the package's fault; other faults are the store's."""
        try:
            yield
        except OSError as error:
            if error.errno not in _UNNAMEABLE:
                raise
            found = f"{shown(name)}: {error.strerror}"
            raise refused(self._option, "names that a file can have", found) from error
