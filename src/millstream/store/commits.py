"""Writes the checkpoints of many partitions in few transactions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from millstream.contract.errors import StateUnavailable
from millstream.store import statements as sql
from millstream.store.database import Database, Values

GROUP = 500
"""Checkpoints in one transaction, at most: other calls come between two of them."""


@dataclass(slots=True, eq=False)
class _Entry:
    values: Values
    answer: bool | StateUnavailable | None = None  # whether its lease still held. None: not written yet


class Commits:
    """Writes together what came in while the last group was written.

    A transaction costs its way to the disk, however many rows it has. One at a time would let a daemon
    with a thousand partitions on a slow disk wait seconds for its turn to renew their leases.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Entry] = []
        self._turn = asyncio.Lock()

    async def write(self, values: Values) -> bool:
        """Whether the lease in `values` still held, and its checkpoint was written.

        Raises:
            StateUnavailable: it may have been written or not.
        """
        entry = _Entry(values)
        self._waiting.append(entry)
        try:
            async with self._turn:
                while entry.answer is None:
                    await self._write_group()
        finally:
            if entry.answer is None:  # cancelled: it must not be written later, when nobody expects it
                entry.answer = False
                self._waiting = [waiting for waiting in self._waiting if waiting is not entry]
        if isinstance(entry.answer, StateUnavailable):
            raise StateUnavailable(str(entry.answer)) from entry.answer
        return entry.answer

    async def _write_group(self) -> None:
        group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
        try:
            for entry, held in zip(group, await self._written(group), strict=True):
                entry.answer = held
        except StateUnavailable as error:
            for entry in group:
                entry.answer = error
        finally:  # if this caller was cancelled, another writes them, perhaps a second time
            self._waiting[:0] = [entry for entry in group if entry.answer is None]

    async def _written(self, group: list[_Entry]) -> list[bool]:
        if len(group) == 1:
            return [bool(await self._database.one(f"{sql.COMMIT} RETURNING epoch", group[0].values))]
        rows = [entry.values for entry in group]
        return [touched > 0 for touched in await self._database.run(lambda s: s.many(sql.COMMIT, rows))]
