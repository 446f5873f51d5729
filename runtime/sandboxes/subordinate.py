"""The subordinate ids of an ordinary user: users of this host that its functions may be.

Source: Linux, subuid(5), subgid(5), newuidmap(1).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ETC = Path("/etc")
FILES = ("subuid", "subgid")
PROGRAMS = ("newuidmap", "newgidmap")
FEWEST, MOST = 16, 1000
"""Ids that are worth while, and that are used."""

USUAL = range(100_000, 165_536)
"""The first range that useradd gives away. Source: Linux, login.defs(5), SUB_UID_MIN and SUB_UID_COUNT."""

NUMBER = re.compile("[0-9]{1,10}")

END = (1 << 32) - 1
"""The last id is none."""


@dataclass(frozen=True, slots=True)
class Subordinates:
    """Users and groups of the host, as many of each, and the programs that map them into a namespace."""

    uids: range
    gids: range
    programs: Sequence[str]

    def number(self, uid: int) -> int:
        """The number of a user, and of its group, in a namespace with the maps below; 0 is who makes it."""
        return self.uids.index(uid) + 1

    def maps(self, uid: int, gid: int) -> list[list[str]]:
        """Commands that map this user and group to 0, and the ids to what follows.

        Each wants the id of a process in the namespace as its first argument.
        """
        pairs = zip(self.programs, (uid, gid), (self.uids, self.gids), strict=True)
        return [
            [program, "0", str(own), "1", "1", str(ids.start), str(len(ids))] for program, own, ids in pairs
        ]


@dataclass(frozen=True, slots=True)
class Missing:
    """There are none to use: the reason, and the way out."""

    why: str
    way_out: str


def find_subordinates(etc: Path = ETC) -> Subordinates | Missing:
    """The ids of this process's user. Whether they can be used, only trying shows."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return Missing(f"user {uid} has no account", "run millstream as a user of /etc/passwd")
    texts = [_read(etc / file) for file in FILES]
    most = [largest(text, {name, str(uid)}) for text in texts]
    count = min(MOST, *map(len, most))
    if count < FEWEST:
        lacking = " and ".join(
            str(etc / file) for file, ids in zip(FILES, most, strict=True) if len(ids) < FEWEST
        )
        new = unused(texts)
        ids = f"{new.start}-{new.stop - 1}"
        why = f"wanted {FEWEST} subordinate ids for {name} in {lacking}, found {count}"
        return Missing(why, f"sudo usermod --add-subuids {ids} --add-subgids {ids} {name}")
    programs = [shutil.which(program) for program in PROGRAMS]
    found = [program for program in programs if program is not None]
    if len(found) < len(PROGRAMS):
        return Missing(
            f"wanted {' and '.join(PROGRAMS)}, found {' and '.join(found) or 'none'}",
            "apt install uidmap (elsewhere shadow-utils)",
        )
    # The last ones: the first are those of accounts in this user's containers, where it has any.
    uids, gids = (ids[-count:] for ids in most)
    return Subordinates(uids, gids, found)


def largest(text: str, owners: set[str]) -> range:
    """The longest range that lines of these owners give, without root. Empty: there is none."""
    return max((ids for owner, ids in _lines(text) if owner in owners), key=len, default=range(0))


def unused(texts: Sequence[str]) -> range:
    """Name as many ids as are usual, after those that are given away."""
    start = max([USUAL.start, *(ids.stop for text in texts for _, ids in _lines(text))])
    return range(start, start + len(USUAL))


def _lines(text: str) -> Iterator[tuple[str, range]]:
    """Owners, by name or number, and what each line gives; others are skipped."""
    for line in text.splitlines():
        owner, *numbers = line.strip().split(":")
        if len(numbers) == 2 and all(NUMBER.fullmatch(number) for number in numbers):
            start, count = map(int, numbers)
            if count and start + count <= END:
                yield owner, range(max(start, 1), start + count)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
