"""Programs for processes of their own, started by the store's tests with a name and a path."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from millstream.contract.errors import StateUnavailable
from millstream.store.sqlite import SqliteStore
from tests.contract.store_values import OWNER, ROW, STATUS, checkpoint, taken


async def commit_forever(path: Path) -> None:
    """Says each number once its cursor is committed; never ends."""
    store = SqliteStore(path)
    await store.put_mapping(ROW)
    held = await taken(store)
    number = 0
    while True:
        number += 1
        await store.commit(held, checkpoint(str(number)))
        print(number, flush=True)


async def fill_the_disk(path: Path) -> None:
    """Says what a full disk brings, then what is left of the state, then what works with room again."""
    store = SqliteStore(path)
    await store.put_mapping(ROW)
    held = await taken(store)
    await store.commit(held, checkpoint("1"))
    filler = path.with_name("filler")
    with filler.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 4096)
        except OSError:
            pass
    position = 1
    try:
        while True:
            await store.commit(held, checkpoint(str(position + 1)))
            position += 1
    except StateUnavailable as error:
        print(error)
    print(await store.cursor(held) == str(position))
    filler.unlink()
    await store.put_status(OWNER, [STATUS])
    print(list(await store.statuses(OWNER)) == [STATUS])
    await store.aclose()


async def open_as_nobody(path: Path) -> None:
    """Says what a store in a folder that is not ours to write brings, then what a reader sees there."""
    if os.geteuid() == 0:
        os.setuid(65534)
    store = SqliteStore(path)
    try:
        await store.put_mapping(ROW)
    except StateUnavailable as error:
        print(error)
    await store.aclose()
    reader = SqliteStore.read_only(path)
    print(list(await reader.mappings()) == [ROW])
    await reader.aclose()


PROGRAMS: dict[str, Callable[[Path], Coroutine[Any, Any, None]]] = {
    program.__name__: program for program in (commit_forever, fill_the_disk, open_as_nobody)
}

if __name__ == "__main__":
    asyncio.run(PROGRAMS[sys.argv[1]](Path(sys.argv[2])))
