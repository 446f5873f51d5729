"""A consumer group in memory, for the tests of the core."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from millstream.contract.clock import Clock
from millstream.contract.errors import LeaseLost
from millstream.contract.functions import Success
from millstream.contract.groups import Assigned, Change, Revoked
from millstream.contract.records import Checkpoint, Record
from millstream.contract.state import Lease
from millstream.contract.streams import At, Oldest, Page


@dataclass
class FakeOutputs:
    """Takes every answer but `refused`."""

    refused: bytes | None = None
    taken: list[bytes] = field(default_factory=list)

    async def take(self, records: Sequence[Record], answer: Success) -> str | None:
        if answer.payload == self.refused:
            return "no records in it"
        self.taken.append(answer.payload)
        return None


@dataclass
class FakeGroup:
    """One member of a group; implements GroupSource. What the broker does is told by the test."""

    clock: Clock
    parts: dict[str, list[Record]] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)  # of the group: position of the last record
    outputs: FakeOutputs | None = None
    event_source_arn: str = "arn:fake:group"
    joined: list[tuple[Oldest | At, bool]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # commits of partitions that it had not any more
    closed: bool = False
    _held: dict[str, int] = field(default_factory=dict)
    _epoch: int = 0
    _changes: deque[Change | Exception] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, *records: Record) -> None:
        for record in records:
            self.parts.setdefault(record.partition, []).append(record)

    def assign(self, *partitions: str) -> None:
        self._epoch += 1
        self._held |= dict.fromkeys(partitions, self._epoch)
        self._tell(Assigned(partitions, self._epoch))

    def revoke(self, *partitions: str, within_s: float = 10.0) -> asyncio.Event:
        """Take partitions away; set once the member has given them up."""
        done = asyncio.Event()
        if within_s == 0:
            self._forget(partitions)

        def let_go() -> None:
            if within_s:  # what was lost may be this member's again by now
                self._forget(partitions)
            done.set()

        self._tell(Revoked(partitions, within_s, let_go))
        return done

    def fail(self, error: Exception) -> None:
        self._tell(error)

    def _forget(self, partitions: Sequence[str]) -> None:
        for partition in partitions:
            self._held.pop(partition, None)

    def _tell(self, change: Change | Exception) -> None:
        self._changes.append(change)
        self._changed.set()

    @property
    def details(self) -> Mapping[str, str]:
        return {"group": "fake"}

    async def mark(self) -> float:
        return self.clock.now()

    async def join(self, start: Oldest | At, *, marked: bool = False) -> None:
        self.joined.append((start, marked))

    async def change(self) -> Change:
        while not self._changes:
            self._changed.clear()
            await self._changed.wait()
        change = self._changes.popleft()
        if isinstance(change, Exception):
            raise change
        return change

    async def reader(self, leases: Sequence[Lease]) -> FakeGroupReader:
        return FakeGroupReader(self, {of.partition: self.cursors.get(of.partition, -1) for of in leases})

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        if self._held.get(lease.partition) != lease.epoch:
            self.refused.append(lease.partition)
            raise LeaseLost(lease.partition)
        self.cursors[checkpoint.partition] = int(checkpoint.position)

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class FakeGroupReader:
    group: FakeGroup
    behind: dict[str, int]

    async def read(self, limit: int, wait_s: float) -> Page:
        until = self.group.clock.monotonic() + wait_s
        while True:
            await self.group.clock.sleep(0)
            found = [r for p in self.behind for r in self.group.parts.get(p, ()) if self._is_new(r)][:limit]
            for record in found:
                self.behind[record.partition] = int(record.position)
            if found or self.group.clock.monotonic() >= until:
                return Page(found, lag_s=0.0)
            await self.group.clock.sleep(0.2)

    def _is_new(self, record: Record) -> bool:
        return int(record.position) > self.behind[record.partition]

    async def aclose(self) -> None:
        pass
