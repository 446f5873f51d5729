"""Decides what of a tree is a package's content. The same rules hold for folders and .zip files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from millstream.functions.confinement import Bounds, CannotTakeApart, Child
from millstream.functions.trees import ENTRIES, Found, Kind, Tree, fits, refused, shown

IGNORE_FILE = ".millstreamignore"
"""Names what is no part of a package, in gitignore's syntax."""

IGNORE_BYTES = 64 * 1024

IGNORE_CPU_S = 10
"""Processor time that its patterns may take, for all names together: some would take for ever."""

BYTECODE = "__pycache__"
"""Never taken: bytecode is made from the source that comes with it."""

VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})

DEPTH = 200
"""Folders in folders; to remove them takes a descriptor each."""

HOPS = 40
"""Links that one name may lead through, as on Linux."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, a link, or a folder that holds nothing."""

    name: str
    found: Found


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or a folder that is no part of the package, with all that it holds. `rule`: for a message."""

    name: str
    rule: str
    found: Found


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries of a tree that are taken, sorted by names, and those that are left out."""

    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]

    def files(self) -> list[tuple[str, Found]]:
        """The regular files."""
        return [(each.name, each.found) for each in self.entries if each.found.kind is Kind.FILE]


class Ignored(Protocol):
    """Tells which names an ignore file names; those of folders end in a slash."""

    def __call__(self, names: Sequence[str]) -> Sequence[bool]: ...


def walk(tree: Tree, option: str, *, virtualenvs: bool = False) -> Listing:
    """List what of a tree is taken. `option` names the source; `virtualenvs`: they are taken, too.

    Raises:
        InvalidConfiguration: it holds what must not be unpacked, or too much.
    """
    with ExitStack() as stack:
        walker = _Walker(tree, option, virtualenvs, _ignored(tree, option, stack))
        walker.folder("", tree.children(""), 0)
    entries = sorted(walker.entries, key=lambda each: os.fsencode(each.name))
    check_links({each.name: each.found for each in entries}, option)
    return Listing(tuple(entries), tuple(walker.left_out))


@dataclass(slots=True)
class _Walker:
    tree: Tree
    option: str
    virtualenvs: bool
    ignored: Ignored | None
    entries: list[Entry] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def folder(self, folder: str, children: Mapping[str, Found], depth: int) -> None:
        """Take what a folder holds."""
        names = sorted(children)
        ignored = self._ignored(folder, names, children)
        before = len(self.entries)
        for name in names:
            path, found = f"{folder}/{name}" if folder else name, children[name]
            if rule := _rule(name, found, ignored):
                self.left_out.append(LeftOut(path, rule, found))
                continue
            if not fits(path):
                raise refused(self.option, "names that a file can have", shown(path))
            if found.kind is Kind.FOLDER:
                self._below(path, found, depth)
            else:
                self.take(Entry(path, found))
        if folder and len(self.entries) == before:
            self.take(Entry(folder, Found(Kind.FOLDER)))

    def _below(self, path: str, found: Found, depth: int) -> None:
        if depth >= DEPTH:
            raise refused(self.option, f"at most {DEPTH} folders in one another", f"more, at {shown(path)}")
        children = self.tree.children(path)
        if rule := _rule_of_folder(children, self.virtualenvs):
            self.left_out.append(LeftOut(path, rule, found))
        else:
            self.folder(path, children, depth + 1)

    def take(self, entry: Entry) -> None:
        """Take one entry."""
        self.entries.append(entry)
        if len(self.entries) > ENTRIES:
            raise refused(self.option, f"at most {ENTRIES} entries", f"more, at {shown(entry.name)}")

    def _ignored(self, folder: str, names: Sequence[str], children: Mapping[str, Found]) -> set[str]:
        if self.ignored is None or not names:
            return set()
        above = f"{folder}/" if folder else ""
        paths = [f"{above}{name}{'/' if children[name].kind is Kind.FOLDER else ''}" for name in names]
        return {name for name, yes in zip(names, self.ignored(paths), strict=True) if yes}


def _rule(name: str, found: Found, ignored: Collection[str]) -> str | None:
    """The rule by which an entry is left out. None: by none."""
    if name == BYTECODE or name in VERSION_CONTROL:
        return name
    if found.kind is Kind.STATE:
        return "data directory"
    if found.kind is Kind.OTHER:
        return "no file, link or folder"
    return IGNORE_FILE if name in ignored else None


def _rule_of_folder(children: Mapping[str, Found], virtualenvs: bool) -> str | None:
    if "pyvenv.cfg" in children and not virtualenvs:
        return "virtual environment"
    if "lock" in children and ("state.db" in children or "daemon-id" in children):
        return "data directory"
    return None


def _ignored(tree: Tree, option: str, stack: ExitStack) -> Ignored | None:
    """Read the root's ignore file. None: there is none."""
    found = tree.children("").get(IGNORE_FILE)
    if found is None or found.kind is not Kind.FILE:
        return None
    text = bytearray()
    (chunks,) = tree.read([(IGNORE_FILE, found)])
    for chunk in chunks:
        text += chunk
        if len(text) > IGNORE_BYTES:
            raise refused(option, f"a {IGNORE_FILE} of at most 64 KB", "more")
    wanted = f"patterns of gitignore in {IGNORE_FILE}"
    try:
        child = stack.enter_context(Child("ignore", bounds=Bounds(cpu_s=IGNORE_CPU_S)))
        child.ask(text.decode(errors="replace").splitlines())
        child.answer()
    except CannotTakeApart as error:
        raise refused(option, wanted, str(error)) from error

    def ignored(names: Sequence[str]) -> Sequence[bool]:
        answers: list[bool] = []
        try:
            for start in range(0, len(names), 100):
                child.ask(names[start : start + 100])
                answers += child.answer()
        except (CannotTakeApart, TypeError) as error:
            raise refused(option, wanted, str(error)) from error
        return answers

    return ignored


def check_links(entries: Mapping[str, Found], option: str) -> None:
    """Raises:
    InvalidConfiguration: a link leads out of the package, by itself or by way of others, or nowhere.
    """
    links = {name: found.target for name, found in entries.items() if found.kind is Kind.LINK}
    for name in links:
        if resolve(name, links) is None:
            found = f"{shown(name)}, to {shown(links[name]) or 'nothing'}"
            wanted = f"relative links that stay inside the package, or their names in {IGNORE_FILE}"
            raise refused(option, wanted, found)


def resolve(name: str, links: Mapping[str, str]) -> str | None:
    """Follow a name through a tree with these links. None: it leads out of it, or in a circle."""
    at: list[str] = []
    todo = deque(name.split("/"))
    hops = 0
    while todo:
        part = todo.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return None
            at.pop()
            continue
        target = links.get("/".join([*at, part]))
        if target is None:
            at.append(part)
            continue
        hops += 1
        if hops > HOPS or not target or target.startswith("/") or "\0" in target:
            return None
        todo.extendleft(reversed(target.split("/")))
    return "/".join(at)
