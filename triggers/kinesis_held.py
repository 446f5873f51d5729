"""What was read and is not asked for yet: packed as the service sent it, made into records in parts.

A page of packed records may become a hundred times its size in events, so no more events are made than are
asked for at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from weakref import WeakSet

from millstream.contract.records import Record
from millstream.contract.streams import Page
from millstream.triggers.kinesis_aggregates import UserRecord
from millstream.triggers.kinesis_records import RecordMaker
from millstream.triggers.kinesis_wire import KinesisRecord

LEAST_PART_BYTES = 64 * 1024
MOST_PART_BYTES = 4 * 1024 * 1024
"""Bounds of the events that are made at once."""


class Buffer:
    """What the readers of a source may hold, shared evenly among those that are open."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._readers: WeakSet[object] = WeakSet()

    def join(self, reader: object) -> None:
        self._readers.add(reader)

    def leave(self, reader: object) -> None:
        self._readers.discard(reader)

    @property
    def packed_bytes(self) -> int:
        """What one reader may hold of packed records, about."""
        return self._size_bytes // (2 * max(len(self._readers), 1))

    @property
    def part_bytes(self) -> int:
        """Size of the events that one reader makes at once; the last of them may go beyond."""
        share = self._size_bytes // (8 * max(len(self._readers), 1))
        return min(max(share, LEAST_PART_BYTES), MOST_PART_BYTES)


@dataclass(frozen=True, slots=True)
class Held:
    """The Kinesis records of one answer from `first` on, of which one that was taken apart from `sub` on."""

    maker: RecordMaker
    found: Sequence[KinesisRecord]
    received_at: float
    first: int = 0
    sub: int = 0
    packed: Sequence[UserRecord] | None = None  # what `first` was taken apart into, if it was already

    @property
    def empty(self) -> bool:
        return self.first >= len(self.found)

    def part(self, limit: int, most_bytes: float) -> tuple[list[Record], Held]:
        """The next records, and what is left: this stays as it is. No records only if none are left."""
        if not self.maker.unpacks:
            return self._plain_part(limit, most_bytes)
        made: list[Record] = []
        size, held = 0, self
        while not held.empty and len(made) < limit and size < most_bytes:
            records, held = held._of_one(limit - len(made), most_bytes - size)
            made += records
            size += sum([len(record.event) for record in records])
        return made, held

    def parts(self, limit: int, most_bytes: float) -> Iterator[tuple[list[Record], Held]]:
        """All of it, one part after the other; at least one, which may be empty."""
        held = self
        while True:
            records, held = held.part(limit, most_bytes)
            yield records, held
            if held.empty:
                return

    def _plain_part(self, limit: int, most_bytes: float) -> tuple[list[Record], Held]:
        end, size = self.first, 0
        for one in self.found[self.first : self.first + limit]:
            if size >= most_bytes:
                break
            size += memoryview(one.data).nbytes
            end += 1
        records = self.maker.records(self.found[self.first : end], self.received_at)
        return records, replace(self, first=end)

    def _of_one(self, limit: int, most_bytes: float) -> tuple[list[Record], Held]:
        """Records of the first one alone."""
        one = self.found[self.first]
        packed = self.maker.taken_apart(one) if self.packed is None else self.packed
        behind = replace(self, first=self.first + 1, sub=0, packed=None)
        if packed is None:
            return self.maker.records([one], self.received_at), behind
        made: list[Record] = []
        size = 0
        for sub in range(self.sub, len(packed)):
            if len(made) >= limit or size >= most_bytes:
                return made, replace(self, sub=sub, packed=packed)
            record = self.maker.packed(one, sub, packed[sub], self.received_at)
            if record is not None:
                made.append(record)
                size += len(record.event)
        return made, behind


class Backlog:
    """Records that were made and not yet asked for; handed out in pages of the size that is asked for."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._next = 0
        self._ended = False
        self._lag_s: float | None = None

    @property
    def empty(self) -> bool:
        """True if `take` has nothing to say that it has not said before."""
        return self._next >= len(self._records)

    @property
    def ended(self) -> bool:
        """True once the last of the shard was added."""
        return self._ended

    def add(self, records: list[Record], lag_s: float | None, ended: bool = False) -> None:
        """Append what one read brought."""
        self._records = self._records[self._next :] + records if not self.empty else records
        self._next = 0
        self._lag_s = lag_s
        self._ended = ended

    def take(self, limit: int) -> Page:
        """The next records, at most `limit`."""
        if self._next == 0 and len(self._records) <= limit:
            page, self._records = self._records, []
        else:
            page = self._records[self._next : self._next + limit]
            self._next += len(page)
            if self.empty:
                self._records, self._next = [], 0
        return Page(page, self._ended and self.empty, self._lag_s)
