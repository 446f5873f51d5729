"""Every entry of a folder or a .zip file, each checked before anybody writes it."""

from __future__ import annotations

import os
import posixpath
import stat
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.functions.contents import is_link

UNZIPPED_BYTES = 250 * 1024 * 1024
ZIPPED_BYTES = 50 * 1024 * 1024
"""Largest packages, layers included. Source: AWS, "Lambda quotas"."""

BYTECODE = "__pycache__"
"""Never taken: bytecode is made from the source that comes with it."""

LINK_BYTES = 4096
"""Longest path that a link can hold."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file; or a symbolic link, where `data` is what it points to."""

    name: str
    data: bytes
    executable: bool = False
    link: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a source is taken. `field` is the option that names the source, for messages."""

    field: str
    links: bool  # True: links are kept as links. False: those to files are followed, others refused
    hidden: bool  # True: names that begin with a dot are taken
    skipped: frozenset[str]
    virtualenvs: bool
    ours: Collection[Path] = ()  # folders of the daemon, no part of any package

    def refused(self, wanted: str, found: str) -> InvalidConfiguration:
        """The error of an entry that must not be unpacked."""
        return InvalidConfiguration([Problem("", self.field, wanted, found)])


def entries(source: Path, rules: Rules) -> Iterator[Entry]:
    """Files and links in the order of their names, so that the same content comes in the same order.

    Raises: what `contents.reading` maps, and InvalidConfiguration.
    """
    return _of_a_zip(source, rules) if source.is_file() else _of_a_folder(source, rules)


def _of_a_folder(source: Path, rules: Rules) -> Iterator[Entry]:
    root = source.resolve()
    for folder, names, files in os.walk(root, onerror=_raise):
        here = Path(folder)
        names[:] = sorted(name for name in names if _taken(here, name, rules))
        links = [name for name in names if (here / name).is_symlink()]
        if links and not rules.links:
            found = f"{(here / links[0]).relative_to(root)}, a link to a folder"
            raise rules.refused("folders, not links to folders", found)
        names[:] = [name for name in names if name not in links]
        visible = (name for name in files if rules.hidden or not name.startswith("."))
        for name in sorted([*visible, *links]):
            path = here / name
            relative = path.relative_to(root).as_posix()
            if rules.links and path.is_symlink():
                yield _link(relative, os.readlink(path), rules)
            else:
                yield _file(path, relative, root, rules)


def _taken(here: Path, name: str, rules: Rules) -> bool:
    if name in rules.skipped or (name.startswith(".") and not rules.hidden):
        return False
    if not rules.virtualenvs and (here / name / "pyvenv.cfg").exists():
        return False
    return Path(os.path.realpath(here / name)) not in rules.ours


def _file(path: Path, relative: str, root: Path, rules: Rules) -> Entry:
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise rules.refused("links that stay inside the package", f"{relative}, which leaves it")
    if not path.is_file():
        raise rules.refused("files and folders only", f"{relative}, of another kind")
    found = path.stat()
    if found.st_size > UNZIPPED_BYTES:
        raise rules.refused("at most 250 MB unzipped", f"more, at {relative}")
    return Entry(relative, path.read_bytes(), bool(found.st_mode & 0o111))


def _link(name: str, target: str, rules: Rules) -> Entry:
    """A link of a layer. It is never followed here; inside a sandbox it leads nowhere but there."""
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if not target or target.startswith("/") or inside == ".." or inside.startswith("../") or "\0" in target:
        raise rules.refused("relative links that stay inside the layer", f"{name}, which leaves it")
    return Entry(name, os.fsencode(target), link=True)


def _of_a_zip(source: Path, rules: Rules) -> Iterator[Entry]:
    if source.stat().st_size > ZIPPED_BYTES:
        raise rules.refused("a .zip file of at most 50 MB", f"{source.stat().st_size} bytes")
    with zipfile.ZipFile(source) as archive:
        if sum(info.file_size for info in archive.infolist()) > UNZIPPED_BYTES:
            raise rules.refused("at most 250 MB unzipped", "more")
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            name, mode = info.filename, info.external_attr >> 16
            if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name:
                raise rules.refused("names that stay inside the package", f"{name!r} in {source.name}")
            if BYTECODE in PurePosixPath(name).parts:
                continue
            if rules.links and is_link(info):
                if info.file_size > LINK_BYTES:
                    raise rules.refused("relative links that stay inside the layer", f"{name}, too long")
                yield _link(PurePosixPath(name).as_posix(), os.fsdecode(archive.read(info)), rules)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise rules.refused("files and folders only", f"{name!r} of another kind in {source.name}")
            elif not info.is_dir():
                yield Entry(PurePosixPath(name).as_posix(), archive.read(info), bool(mode & 0o111))


def _raise(error: OSError) -> None:
    raise error
