"""Says in a line what lies in a package's source and is no part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from millstream.functions.packages import Package
from millstream.functions.trees import ENTRIES, Found, Kind, Tree, open_tree, shown
from millstream.functions.walk import LeftOut

NAMES = 5
"""Names that a line has."""


def left_out(packages: Sequence[Package]) -> str:
    """`left out 12 files, 3.4 MB: .git, env (virtual environment)`; empty if there is nothing.

    Cost: looks at each file that is left out, up to 100,000.
    Raises:
        InvalidConfiguration: a source cannot be read.
    """
    files = size = 0
    all_of_it = True
    for package in packages:
        if package.listing.left_out:
            with closing(open_tree(package.source, "code")) as tree:
                for each in package.listing.left_out:
                    count, size_bytes = _amount(tree, each.name, each.found, ENTRIES - files)
                    files, size = files + count, size + size_bytes
                    all_of_it = all_of_it and files < ENTRIES
    names = named([each for package in packages for each in package.listing.left_out])
    if not names:
        return ""
    more = "" if all_of_it else "more than "
    return f"left out {more}{files} file{'' if files == 1 else 's'}, {size_of(size)}: {names}"


def size_of(size_bytes: int) -> str:
    """A number of bytes for a person: 17 bytes, 1.4 kB, 2.0 MB."""
    for unit, name in (1000**3, "GB"), (1000**2, "MB"), (1000, "kB"):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"


def _amount(tree: Tree, name: str, found: Found, room: int) -> tuple[int, int]:
    """Files and their bytes, `room` files at most."""
    files = size = 0
    todo = [(name, found)]
    while todo and files < room:
        name, found = todo.pop()
        if found.kind in (Kind.FOLDER, Kind.STATE):
            todo += [(f"{name}/{below}", each) for below, each in tree.children(name).items()]
        else:
            files, size = files + 1, size + found.size_bytes
    return files, size


def named(found: Sequence[LeftOut]) -> str:
    """Names with their rules, five at most; names that are rules come once, with their number."""
    spoken = Counter(each.rule for each in found if each.name.rpartition("/")[2] == each.rule)
    words = [rule if number == 1 else f"{rule} ({number})" for rule, number in spoken.items()]
    words += [f"{shown(each.name)} ({each.rule})" for each in found if each.rule not in spoken]
    rest = len(words) - NAMES
    return ", ".join(words[:NAMES]) + (f" and {rest} more" if rest > 0 else "")
