"""Deploys packages: a folder or .zip file becomes a folder that never changes, named by its content."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.bytecode import compile_folder
from millstream.functions.snapshots import Snapshot, Writer, settle, staging
from millstream.functions.trees import UNZIPPED_BYTES, Kind, Tree, open_tree, refused, shown
from millstream.functions.walk import Listing, walk

TASK, OPT = "/var/task", "/opt"


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of package. `option` names it in messages, `place` is where a function sees it."""

    option: str
    place: str
    virtualenvs: bool  # True: they are part of it


CODE = Form("code", TASK, virtualenvs=False)
LAYER = Form("layers", OPT, virtualenvs=True)
"""A virtual environment has the folders that Python looks for in a layer, so it may be one."""


@dataclass(frozen=True, slots=True)
class Package:
    """The content of a source. `digest` names it, whatever it is packed in."""

    source: Path
    listing: Listing
    digest: str
    size_bytes: int


class Packages:
    """Looks at each source once, however many functions share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, Form], Package | InvalidConfiguration] = {}

    def of(self, source: Path, form: Form) -> Package:
        """The content of a source. Cost: reads all of it, the first time.

        Raises:
            InvalidConfiguration: it cannot be read, is too large, or must not be unpacked.
        """
        key = (source, form)
        if key not in self._known:
            try:
                self._known[key] = survey(source, form)
            except InvalidConfiguration as invalid:
                self._known[key] = invalid
        found = self._known[key]
        if isinstance(found, InvalidConfiguration):
            raise found
        return found


def survey(source: Path, form: Form, ours: Collection[Path] = ()) -> Package:
    """The content of a source; `ours` are data directories. Cost: reads all of it.

    Raises:
        InvalidConfiguration: as `Packages.of`.
    """
    with closing(open_tree(source, form.option, ours)) as tree:
        listing = walk(tree, form.option, virtualenvs=form.virtualenvs)
        digest, size = _hash(tree, listing, form, None)
    return Package(source, listing, digest, size)


def deploy(
    source: Path,
    store: Path,
    *,
    form: Form = CODE,
    room_bytes: int = UNZIPPED_BYTES,
    known: Package | None = None,
    compiled: bool = True,
) -> Snapshot:
    """The folder of a source's content below `store`, made if it is not there yet.

    `known` is the source as it was looked at before. Cost: reads the source; writes it if its content is new.
    Raises:
        InvalidConfiguration: as `Packages.of`, and if it has more than `room_bytes`.
        StateUnavailable: `store` cannot be written.
    """
    ours = (store.resolve(), store.resolve().parent)
    package = known or survey(source, form, ours)
    check_room(package, room_bytes, form)
    target = store / package.digest
    if target.is_dir():
        return Snapshot(target, package.size_bytes)
    with staging(store) as temporary:
        folder = temporary / "package"
        with closing(open_tree(source, form.option, ours)) as tree:
            listing = walk(tree, form.option, virtualenvs=form.virtualenvs)
            writer = Writer(folder, form.option)
            writer.place(listing)
            # It may have changed since it was looked at: its name is of what was written.
            digest, size = _hash(tree, listing, form, writer)
        check_room(Package(source, listing, digest, size), room_bytes, form)
        if compiled:
            compile_folder(folder, form.place, listing)
        return Snapshot(settle(folder, store / digest), size)


def check_room(package: Package, room_bytes: int, form: Form) -> None:
    """Raises:
    InvalidConfiguration: the package has more bytes than are left for it.
    """
    if package.size_bytes > room_bytes:
        found = f"{package.size_bytes} bytes where {room_bytes} are left"
        raise refused(form.option, "at most 250 MB unzipped, layers included", found)


def _hash(tree: Tree, listing: Listing, form: Form, writer: Writer | None) -> tuple[str, int]:
    """The digest of a listing's content and its bytes; the files are written meanwhile, if there is a writer.

    Bytecode is made for this Python, so another one has folders of its own.
    """
    total = hashlib.sha256(f"2 {sys.implementation.cache_tag}\0".encode())
    contents = tree.read(listing.files())
    size = 0
    for entry in listing.entries:
        found = entry.found
        kind = "program" if found.executable and found.kind is Kind.FILE else found.kind.value
        total.update(f"{entry.name}\0{kind}\0{found.target}\0".encode(errors="surrogateescape"))
        if found.kind is not Kind.FILE:
            continue
        content = hashlib.sha256()
        chunks = _counted(next(contents), UNZIPPED_BYTES - size, entry.name, form)
        if writer is not None:
            chunks = writer.write(entry, chunks)
        for chunk in chunks:
            content.update(chunk)
            size += len(chunk)
        total.update(content.digest())
    return total.hexdigest()[:32], size


def _counted(chunks: Iterator[bytes], room: int, name: str, form: Form) -> Iterator[bytes]:
    for chunk in chunks:
        room -= len(chunk)
        if room < 0:
            raise refused(form.option, "at most 250 MB unzipped, layers included", f"more, at {shown(name)}")
        yield chunk
