"""Holds what the polling thread has fetched until the mapping takes it; used by both at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from millstream.contract.errors import LeaseLost
from millstream.contract.records import Record
from millstream.triggers.kafka_buffer import LEAST_BYTES, MOST_BYTES, Buffer

POLL_RECORDS = 1000
"""What one poll brings at most."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the client is to do before it polls again."""

    enough: bool  # False: not yet
    limit: int  # records that it is to ask for at most
    pass_over: Sequence[int]
    bring: Sequence[int]  # again


class Buffers:
    """Holds a buffer for each assigned partition, under the epoch of its assignment.

    The buffers share `most_bytes`. A poll may bring more than its partition's share has room for, up to as
    many bytes again: it is asked for as many records as fit into one share, by the largest one of late.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._changed = threading.Condition()
        self._parts: dict[int, Buffer] = {}
        self._turn = 0
        self._most_bytes = most_bytes
        self._largest_bytes = 0  # of late

    @property
    def assigned(self) -> bool:
        """Say whether any partition is assigned."""
        return bool(self._parts)

    @property
    def bytes(self) -> int:
        """Size of all waiting records together."""
        with self._changed:
            return sum(part.bytes for part in self._parts.values())

    @property
    def share_bytes(self) -> int:
        """How many bytes of one partition may wait, while so many partitions are assigned."""
        return min(max(self._most_bytes // max(len(self._parts), 1), LEAST_BYTES), MOST_BYTES)

    def held(self, partitions: Sequence[int]) -> list[int]:
        """Return the partitions among these that are assigned."""
        with self._changed:
            return [partition for partition in partitions if partition in self._parts]

    def brought(self, partition: int) -> int | None:
        """The offset behind the last record that the client brought. None: it is not assigned."""
        with self._changed:
            part = self._parts.get(partition)
            return None if part is None else part.brought

    # ---- called by the event loop

    def rewind(self, partition: int, epoch: int) -> None:
        """Have the records behind the cursor come again, for a new reader."""
        with self._changed, suppress(LeaseLost):
            part = self._at(partition, epoch)
            if part.taken != part.next:
                part.go_back(part.next)
                self._changed.notify_all()

    def take(self, partitions: Sequence[tuple[int, int]], limit: int) -> list[Record]:
        """Up to `limit` records of partitions under their epochs, those of each in order.

        Each partition is the first in its turn, lest the last ones get nothing.
        """
        found: list[Record] = []
        with self._changed:
            first = self._turn % len(partitions)
            for partition, epoch in (*partitions[first:], *partitions[:first]):
                part = self._parts.get(partition)
                if part is None or part.epoch != epoch or part.seek is not None:
                    continue
                found += part.take(limit - len(found))
            if found:
                self._turn += 1
                self._changed.notify_all()
        return found

    def passed(self, partition: int, epoch: int, offset: int) -> None:
        """Note the offset that is to be read next after a restart of the reader.

        Raises:
            LeaseLost: the partition is not assigned under that epoch any more.
        """
        with self._changed:
            part = self._at(partition, epoch)
            part.next = max(part.next, offset)

    def check(self, partition: int, epoch: int) -> None:
        """See that a partition is assigned under its epoch.

        Raises:
            LeaseLost: it is not.
        """
        with self._changed:
            self._at(partition, epoch)

    # ---- called by the thread

    def open(self, starts: Mapping[int, int], epoch: int) -> None:
        """Take records of new partitions, from these offsets on."""
        with self._changed:
            for partition, offset in starts.items():
                self._parts[partition] = Buffer(epoch, offset)
            self._share()

    def drop(self, partitions: Sequence[int]) -> None:
        with self._changed:
            for partition in partitions:
                self._parts.pop(partition, None)
            self._share()

    def put(self, found: Mapping[int, list[Record]], ends: Mapping[int, int] | None = None) -> None:
        """Add the records of one poll; those of a partition that is to be read from elsewhere are left out.

        `ends`: offsets before which the client has brought every record by now.
        """
        with self._changed:
            largest = 0
            for partition, records in found.items():
                part = self._parts.get(partition)
                if part is not None and part.seek is None and records:
                    part.put(records)
                    largest = max(largest, *[len(record.event) for record in records])
            if found:
                self._largest_bytes = max(largest, self._largest_bytes // 2)
            for partition, end in (ends or {}).items():
                part = self._parts.get(partition)
                if part is not None and part.seek is None:
                    part.end = max(part.end, end)

    def skip_markers(self) -> dict[int, int]:
        """Go on behind markers of transactions, and what else is no record, where all before is done with.

        The offsets at which those partitions go on.
        """
        with self._changed:
            found = {partition: part.skip_markers() for partition, part in self._parts.items()}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def read_again(self) -> None:
        """Have all records fetched again that no reader has: the client may have dropped any of them."""
        with self._changed:
            for part in self._parts.values():
                part.go_back(part.seek if part.seek is not None else part.taken)

    def wanted(self) -> dict[int, int]:
        """Return the offset at which the client must go on, for each partition that is to be read again."""
        with self._changed:
            return {p: part.seek for p, part in self._parts.items() if part.seek is not None}

    def sought(self, wanted: Mapping[int, int]) -> None:
        """Note that the client goes on at these offsets; it passes over none of these partitions any more."""
        with self._changed:
            for partition, offset in wanted.items():
                part = self._parts.get(partition)
                if part is None:
                    continue
                part.paused = False
                if part.seek == offset:
                    part.seek = None

    def jump(self, partition: int, offset: int) -> bool:
        """Go on elsewhere than where the client is.

        False: the way leads back, and the reader has records whose cursor would lead forth again.
        """
        with self._changed:
            part = self._parts.get(partition)
            if part is None:
                return True
            if offset < part.taken != part.next:
                return False
            if offset > part.brought and part.next != part.brought:
                part.go_forth(offset)
            else:
                part.next = offset
                part.go_back(offset)
            return True

    def room(self, now: float, wait_s: float, patience_s: float) -> Room:
        """Say whether there is room for another poll (at `now`, monotonic); wait a moment if there is none.

        To pass over a partition costs what the client has fetched of it: one that has kept up so far is
        waited for, and all with it, for `patience_s`.
        """
        with self._changed:
            waiting = [part for part in self._parts.values() if not part.paused]
            stuck = [p for p, part in self._parts.items() if not part.paused and part.stuck(now, patience_s)]
            for partition in stuck:
                self._parts[partition].pass_over()
            free = [p for p, part in self._parts.items() if part.paused and part.half_empty]
            for partition in free:
                self._parts[partition].paused = False
            full = any(part.full and not part.paused for part in waiting)
            if full:
                self._changed.wait(wait_s)
        limit = self.share_bytes // max(self._largest_bytes, 1)
        return Room(not full, min(max(limit, 1), POLL_RECORDS), stuck, free)

    def wake(self) -> None:
        """End a wait of the thread."""
        with self._changed:
            self._changed.notify_all()

    def _share(self) -> None:
        for part in self._parts.values():
            part.share_bytes = self.share_bytes

    def _at(self, partition: int, epoch: int) -> Buffer:
        part = self._parts.get(partition)
        if part is None or part.epoch != epoch:
            raise LeaseLost(f"partition {partition} is another member's by now")
        return part
