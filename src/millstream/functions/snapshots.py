"""Content-addressed folders: made once for each content, never changed, never half there."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from millstream.contract.errors import StateUnavailable
from millstream.functions.entries import Entry, Rules

STAGING = ".new-"
"""How the names of folders begin that are not ready yet."""


DEPTH = 200
"""Folders in folders; to remove them takes a descriptor each."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of a store, and what its files have together."""

    folder: Path
    size_bytes: int


@contextmanager
def staging(store: Path) -> Iterator[Path]:
    """A new folder below `store`, gone at the end unless it was renamed.

    Raises:
        StateUnavailable: `store` cannot be written; any OSError of the block is taken for that.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=store))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        wanted = "wanted room for the functions' code"
        raise StateUnavailable(f"{store}: {wanted}, found: {error.strerror or error}") from error


def sweep(store: Path) -> None:
    """Remove what a process that was ended left half made. Only for who holds the data directory."""
    for folder in store.glob(f"{STAGING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def settle(made: Path, target: Path) -> None:
    """Give a finished folder its name; another process may have made the same one first."""
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise


def snapshot(
    found: Iterable[Entry], store: Path, rules: Rules, room_bytes: int, finish: Callable[[Path], None]
) -> Snapshot:
    """The entries as a folder of `store`; `finish` sees the folder while it can be changed.

    Raises:
        InvalidConfiguration: the entries do not fit together, or have more than `room_bytes`.
        StateUnavailable: `store` cannot be written.
    """
    digest = hashlib.sha256()
    size = 0
    with staging(store) as temporary:
        package = temporary / "package"
        package.mkdir()
        for entry in found:
            size += len(entry.data)
            if size > room_bytes:
                raise rules.refused("at most 250 MB unzipped, layers included", f"more, at {entry.name}")
            kind = "link" if entry.link else str(entry.executable)
            digest.update(f"{entry.name}\0{len(entry.data)}\0{kind}\0".encode(errors="surrogateescape"))
            digest.update(entry.data)
            _write(package, entry, rules)
        target = store / digest.hexdigest()[:32]
        if not target.exists():
            finish(package)
            _open_to_all(package)
            settle(package, target)
    return Snapshot(target, size)


def _write(package: Path, entry: Entry, rules: Rules) -> None:
    target = package / entry.name
    parents = target.relative_to(package).parents[:-1]
    if len(parents) > DEPTH:
        raise rules.refused(f"at most {DEPTH} folders in one another", f"{len(parents)}")
    for parent in reversed(parents):
        place = package / parent
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            wanted = "names that are a file or a folder"
            raise rules.refused(wanted, f"{entry.name}, below a file or a link")
        place.mkdir(exist_ok=True)
    if target.is_symlink() or target.exists():
        raise rules.refused("each name once", f"{entry.name} twice")
    if entry.link:
        target.symlink_to(os.fsdecode(entry.data))
    else:
        target.write_bytes(entry.data)
        target.chmod(0o755 if entry.executable else 0o644)


def compiled(root: str) -> Callable[[Path], None]:
    """Makes the bytecode of a folder's Python files, which will be at `root`. Links are left alone."""

    def compile_all(folder: Path) -> None:
        # Bytecode is trusted without a look at its source, for a snapshot never changes.
        mode = PycInvalidationMode.UNCHECKED_HASH
        for place in _files(folder, ".py"):
            compileall.compile_file(
                place, quiet=2, invalidation_mode=mode, stripdir=str(folder), prependdir=root
            )

    return compile_all


def _open_to_all(folder: Path) -> None:
    """Everybody may read, also what was written under a daemon's strict umask."""
    for place in _files(folder, ".pyc"):
        place.chmod(0o644)
    for name, _, _ in os.walk(folder):
        os.chmod(name, 0o755)


def _files(folder: Path, suffix: str) -> list[Path]:
    """Regular files with this suffix. A link may lead out of the folder, so none is followed."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [path for path in found if path.name.endswith(suffix) and not path.is_symlink()]
