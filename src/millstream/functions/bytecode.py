"""Makes the bytecode of a package's Python, in a confined child."""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from millstream.contract.errors import Problem
from millstream.functions.confinement import Bounds, CannotTakeApart, Child
from millstream.functions.walk import BYTECODE, Listing

logger = logging.getLogger(__name__)

SOURCE_BYTES = 1 << 20
"""Largest source that is compiled ahead. Larger ones are compiled by whoever imports them."""

BYTECODE_BYTES = 64 * 1024 * 1024
"""Most bytecode that one child makes; what is beyond is compiled by whoever imports it."""

AT_ONCE = 4
WORTH_A_CHILD = 50
"""Children of one package, and sources for which another one is worth its start."""

CHILDREN = 3
"""A source that ends the child is left out and another child goes on, so often."""

BOUNDS = Bounds(cpu_s=60, deadline_s=120.0)


def compile_folder(folder: Path, place: str, listing: Listing) -> None:
    """Make the bytecode of a folder's sources, which will be at `place`. Links are left alone.

    What has no bytecode works all the same, and starts more slowly; a warning says how much of it there is.
    """
    names = [name for name, _ in listing.files() if name.endswith(".py")]
    if not names:
        return
    parts = min(AT_ONCE, os.cpu_count() or 1, 1 + len(names) // WORTH_A_CHILD)
    with ThreadPoolExecutor(parts, thread_name_prefix="compile") as threads:
        missed = sum(threads.map(lambda part: _compile(folder, place, names[part::parts]), range(parts)))
    if missed:
        extra = {"package": folder.name, "files": missed, "of": len(names)}
        logger.warning(
            "python compiled at each start, for it takes too much to compile it ahead", extra=extra
        )


def problem_of(source: bytes, name: str) -> Problem | None:
    """Have the compiler judge a handler's source. None: it is Python, or that cannot be told from here."""
    if len(source) > SOURCE_BYTES:
        return None
    try:
        with Child("python", bounds=BOUNDS) as child:
            child.ask(name)
            child.send(source)
            wrong = child.answer()
    except CannotTakeApart as error:
        return Problem("", "handler", f"Python in {name} that can be compiled", str(error))
    if not wrong:
        return None
    line, message = wrong
    return Problem("", "handler", f"valid Python in {f'{name}:{line}' if line else name}", str(message))


def _compile(folder: Path, place: str, names: list[str]) -> int:
    """Compile; returns how many sources have no bytecode, for they take too much."""
    todo = list(reversed(names))
    skipped = size = 0
    for _ in range(CHILDREN):
        try:
            with Child("python", bounds=BOUNDS) as child:
                while todo and size < BYTECODE_BYTES:
                    name = todo.pop()
                    source = folder / name
                    if source.stat().st_size > SOURCE_BYTES:
                        skipped += 1
                        continue
                    child.ask(str(PurePosixPath(place, name)))
                    child.send(source.read_bytes())
                    match child.answer():
                        case None:
                            size += _write(source, child)
                        case []:
                            skipped += 1
                        case _:  # whoever imports it will say so
                            pass
                return len(todo) + skipped
        except CannotTakeApart:
            skipped += 1  # the one that it was given last
    return len(todo) + skipped


def _write(source: Path, child: Child) -> int:
    made = bytearray()
    for chunk in child.data():
        made += chunk
        if len(made) > 16 * SOURCE_BYTES:
            raise CannotTakeApart("more bytecode than there can be")
    cache = source.parent / BYTECODE
    if not cache.exists():
        cache.mkdir(exist_ok=True)  # another thread may be as far
        cache.chmod(0o755)
    target = cache / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o644), "wb") as out:
        out.write(made)
        os.fchmod(out.fileno(), 0o644)
    return len(made)
