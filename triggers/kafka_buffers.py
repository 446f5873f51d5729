"""What the polling thread has fetched and the mapping not yet taken; used by both at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from millstream.contract.errors import LeaseLost
from millstream.contract.records import Record

BUFFER_RECORDS = 2_000
BUFFER_BYTES = 4 * 1024 * 1024
"""What may wait of one partition; its runner holds more by itself."""


class _Buffer:
    """What waits of one assigned partition."""

    __slots__ = ("bytes", "count", "epoch", "full_since", "next", "paused", "runs", "seek", "slow", "taken")

    def __init__(self, epoch: int, start: int) -> None:
        self.epoch = epoch
        self.next = start  # the offset at which a new reader begins
        self.taken = start  # the one behind what the reader has
        self.seek: int | None = None  # where the client must go on. None: where it is
        self.runs: deque[list[Record]] = deque()  # of records, as polls brought them; none is empty
        self.count = 0  # of all of them
        self.bytes = 0
        self.paused = False  # the client passes over it
        self.slow = False  # it was passed over, and has not been empty since
        self.full_since: float | None = None  # monotonic

    @property
    def full(self) -> bool:
        return self.count >= BUFFER_RECORDS or self.bytes >= BUFFER_BYTES

    @property
    def half_empty(self) -> bool:
        return self.count <= BUFFER_RECORDS // 2 and self.bytes <= BUFFER_BYTES // 2

    def stuck(self, now: float, patience_s: float) -> bool:
        """True if it is full, and no longer to be waited for."""
        if not self.full:
            self.full_since = None
            return False
        if self.full_since is None:
            self.full_since = now
        return self.slow or now - self.full_since >= patience_s

    def take(self, limit: int) -> list[Record]:
        """The next records, in order."""
        found: list[Record] = []
        while self.runs and len(found) < limit:
            run = self.runs.popleft()
            room = limit - len(found)
            if len(run) > room:
                self.runs.appendleft(run[room:])
            found += run[:room]
        if found:
            self.count -= len(found)
            self.bytes -= sum([len(record.event) for record in found])
            self.taken = int(found[-1].position) + 1
        self.slow = self.slow and self.count > 0
        return found

    def put(self, run: list[Record]) -> None:
        """Add what follows."""
        self.runs.append(run)
        self.count += len(run)
        self.bytes += sum([len(record.event) for record in run])

    def pass_over(self) -> None:
        self.paused = self.slow = True
        self.full_since = None

    def clear(self) -> None:
        self.runs.clear()
        self.count = self.bytes = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What the client is to do before it polls again."""

    enough: bool  # False: not yet
    pass_over: Sequence[int]
    bring: Sequence[int]  # again


class Buffers:
    """One for each assigned partition, under the epoch of its assignment."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._parts: dict[int, _Buffer] = {}
        self._turn = 0

    @property
    def assigned(self) -> bool:
        """Whether any is."""
        return bool(self._parts)

    def held(self, partitions: Sequence[int]) -> list[int]:
        """Those that are assigned."""
        with self._changed:
            return [partition for partition in partitions if partition in self._parts]

    # ---- called by the event loop

    def rewind(self, partition: int, epoch: int) -> None:
        """Have the records behind the cursor come again, for a new reader."""
        with self._changed, suppress(LeaseLost):
            part = self._at(partition, epoch)
            if part.taken != part.next:
                part.clear()
                part.seek = part.taken = part.next
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
            self._at(partition, epoch).next = offset

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
                self._parts[partition] = _Buffer(epoch, offset)

    def drop(self, partitions: Sequence[int]) -> None:
        with self._changed:
            for partition in partitions:
                self._parts.pop(partition, None)

    def put(self, found: Mapping[int, list[Record]]) -> None:
        """Add what one poll brought; what a seek makes worthless is left out."""
        with self._changed:
            for partition, records in found.items():
                part = self._parts.get(partition)
                if part is not None and part.seek is None and records:
                    part.put(records)

    def wanted(self) -> dict[int, int]:
        """Where the client must go on, of partitions that are to be read again."""
        with self._changed:
            return {p: part.seek for p, part in self._parts.items() if part.seek is not None}

    def sought(self, wanted: Mapping[int, int]) -> None:
        """The client goes on there; it passes over none of them any more."""
        with self._changed:
            for partition, offset in wanted.items():
                part = self._parts.get(partition)
                if part is None:
                    continue
                part.clear()
                part.paused = False
                if part.seek == offset:
                    part.seek = None

    def jump(self, partition: int, offset: int) -> int | None:
        """Go on elsewhere than at the cursor; where that is. None: it is not assigned."""
        with self._changed:
            part = self._parts.get(partition)
            if part is None:
                return None
            was, part.next, part.taken, part.seek = part.next, offset, offset, offset
            return was

    def room(self, now: float, wait_s: float, patience_s: float) -> Room:
        """Whether there is room for another poll (at `now`, monotonic); waits a moment where there is none.

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
        return Room(not full, stuck, free)

    def wake(self) -> None:
        """End a wait of the thread."""
        with self._changed:
            self._changed.notify_all()

    def _at(self, partition: int, epoch: int) -> _Buffer:
        part = self._parts.get(partition)
        if part is None or part.epoch != epoch:
            raise LeaseLost(f"partition {partition} is another member's by now")
        return part
