"""Streams and their state in memory, for the tests of the core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

from millstream.contract.clock import Clock
from millstream.contract.errors import LeaseLost, PartitionGone, StateUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import (
    BatchLimits,
    Capabilities,
    DataFormat,
    FilterRules,
    Host,
    JsonObject,
    Mismatch,
)
from millstream.contract.records import Checkpoint, Position, Record
from millstream.contract.state import Lease, MappingRow, MappingStatus, PartitionRow
from millstream.contract.streams import (
    After,
    At,
    Oldest,
    Page,
    Partition,
    Start,
    StartingPosition,
    StreamPolicy,
)


def stream_record(
    number: int, *, partition: str = "p", key: str = "k", at: float = 1000.0, size: int = 0
) -> Record:
    """A record whose event is `{"n": number, "key": key, "pad": …}`."""
    return Record(
        partition=partition,
        position=Position(str(number)),
        item_id=str(number),
        event=msgspec.json.encode({"n": number, "key": key, "pad": "x" * size}),
        arrived_at=at,
        received_at=at,
        ordering_key=key,
    )


@dataclass
class FakePartition:
    partition: Partition
    records: list[Record] = field(default_factory=list)
    ended: bool = False
    fault: Exception | None = None  # of each read
    lag_s: float | None = 0.0  # that an empty page tells
    reads: int = 0
    empty_pages: int = 0  # that each reader is given before its first record


@dataclass
class FakeStream:
    """A stream in memory; implements StreamSource."""

    clock: Clock
    parts: dict[str, FakePartition] = field(default_factory=dict)
    event_source_arn: str = "arn:fake"
    identity: str | None = None
    fault: Exception | None = None  # of each list
    open_readers: int = 0
    starts: list[tuple[str, Start]] = field(default_factory=list)

    def add(self, partition: str, *parents: str, closed: bool = False) -> FakePartition:
        made = FakePartition(Partition(partition, frozenset(parents), closed))
        self.parts[partition] = made
        return made

    def put(self, *records: Record) -> None:
        for record in records:
            self.parts[record.partition].records.append(record)

    async def partitions(self) -> Sequence[Partition]:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        return [part.partition for part in self.parts.values()]

    async def mark(self) -> float:
        return self.clock.now()

    async def reader(self, partition: Partition, start: Start) -> FakeReader:
        await asyncio.sleep(0)
        if partition.id not in self.parts:
            raise PartitionGone(partition.id)
        part = self.parts[partition.id]
        self.starts.append((partition.id, start))
        match start:
            case Oldest():
                first = 0
            case At(timestamp=timestamp):
                late = [n for n, record in enumerate(part.records) if record.arrived_at >= timestamp]
                first = late[0] if late else len(part.records)
            case After(position=position):
                places = [n for n, record in enumerate(part.records) if record.position == position]
                first = places[0] + 1 if places else 0
        self.open_readers += 1
        return FakeReader(self, part, first, part.empty_pages)

    async def aclose(self) -> None:
        pass


@dataclass
class FakeReader:
    stream: FakeStream
    part: FakePartition
    next: int
    empty_pages: int = 0

    async def read(self, limit: int, wait_s: float) -> Page:
        self.part.reads += 1
        until = self.stream.clock.monotonic() + wait_s
        while True:
            await self.stream.clock.sleep(0)
            if self.part.fault is not None:
                raise self.part.fault
            if self.empty_pages:
                self.empty_pages -= 1
                return Page(lag_s=self.part.lag_s)
            records = self.part.records[self.next : self.next + limit]
            self.next += len(records)
            ended = self.part.ended and self.next == len(self.part.records)
            if records or ended:
                return Page(tuple(records), ended, 0.0)
            if self.stream.clock.monotonic() >= until:
                return Page(lag_s=self.part.lag_s)
            await self.stream.clock.sleep(min(0.2, until - self.stream.clock.monotonic()))

    async def aclose(self) -> None:
        self.stream.open_readers -= 1


@dataclass(frozen=True)
class FakeStreamTrigger:
    """A stream trigger whose envelope is `{"Records": […]}`."""

    stream: FakeStream
    limits: BatchLimits = BatchLimits(10, 0.0)
    policy: StreamPolicy = StreamPolicy()
    starting_position: StartingPosition = Oldest()
    capabilities: Capabilities = Capabilities(ordered_by_key=True)
    filter_rules: FilterRules = FilterRules("key", ("key",), DataFormat.TEXT, Mismatch.DROP)
    source: str = "s"

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        raise AssertionError("made by tests only")

    async def open(self, host: Host, function: FunctionSpec) -> FakeStream:
        return self.stream

    def envelope(self, records: Sequence[Record]) -> bytes:
        return b'{"Records":[' + b",".join(r.event for r in records) + b"]}"

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        first, last = records[0], records[-1]
        about = {"shardId": first.partition, "startSequenceNumber": first.item_id}
        return {"FakeBatchInfo": {**about, "endSequenceNumber": last.item_id, "batchSize": len(records)}}


@dataclass
class _Row:
    owner: str | None = None
    epoch: int = 0
    expires_at: float = 0.0
    position: Position | None = None
    ended: bool = False
    missing_since: float | None = None


@dataclass
class MemoryStore:
    """Implements StateStore."""

    clock: Clock
    broken: bool = False
    commits: list[tuple[str, str]] = field(default_factory=list)  # (partition, position)
    started: dict[str, float] = field(default_factory=dict)
    rows: dict[tuple[str, str], _Row] = field(default_factory=dict)
    members: dict[tuple[str, str], float] = field(default_factory=dict)
    attending: dict[tuple[str, str], float] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    declared: dict[str, MappingRow] = field(default_factory=dict)
    told: dict[tuple[str, str], MappingStatus] = field(default_factory=dict)

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise StateUnavailable("memory: broken")

    async def succeed(self, before: str, owner: str) -> None:
        await self._answer()
        for row in self.rows.values():
            if row.owner == before:
                row.owner, row.epoch = owner, row.epoch + 1
        for key in [key for key in self.members if key[1] == before]:
            del self.members[key]
        for key in [key for key in self.attending if key[1] == before]:
            del self.attending[key]
        self.told = {(owner if by == before else by, of): status for (by, of), status in self.told.items()}

    async def put_mapping(self, row: MappingRow) -> MappingRow:
        await self._answer()
        key = (row.app, row.function, row.kind, row.source)
        for kept in self.declared.values():
            if (kept.app, kept.function, kept.kind, kept.source) == key:
                row = replace(row, uuid=kept.uuid)
        self.declared[row.uuid] = row
        return row

    async def mappings(self) -> Sequence[MappingRow]:
        await self._answer()
        return list(self.declared.values())

    async def name_source(self, uuid: str, source: str) -> None:
        await self._answer()
        if uuid in self.declared:
            self.declared[uuid] = replace(self.declared[uuid], source=source)

    async def retire(self, uuid: str) -> None:
        await self._answer()
        row = self.declared.get(uuid)
        if row is not None and row.retired_at is None:
            self.declared[uuid] = replace(row, retired_at=self.clock.now())

    async def attend(self, owner: str, mappings: Sequence[str], ttl_s: float) -> None:
        await self._answer()
        self.attending |= {(mapping, owner): self.clock.monotonic() + ttl_s for mapping in mappings}

    async def attendants(self, mapping: str) -> Sequence[str]:
        await self._answer()
        now = self.clock.monotonic()
        return [owner for (of, owner), until in self.attending.items() if of == mapping and until > now]

    async def delete_mapping(self, uuid: str) -> None:
        await self._answer()
        self.declared.pop(uuid, None)
        self.attending = {key: until for key, until in self.attending.items() if key[0] != uuid}
        self.rows = {key: row for key, row in self.rows.items() if key[0] != uuid}
        self.members = {key: until for key, until in self.members.items() if key[0] != uuid}
        self.told = {key: status for key, status in self.told.items() if key[1] != uuid}

    async def put_status(self, owner: str, statuses: Sequence[MappingStatus]) -> None:
        await self._answer()
        self.told |= {(owner, status.uuid): status for status in statuses}

    async def statuses(self, owner: str) -> Sequence[MappingStatus]:
        await self._answer()
        return [status for (by, _), status in self.told.items() if by == owner]

    async def started_at(self, mapping: str, at: float) -> float:
        await self._answer()
        return self.started.setdefault(mapping, at)

    async def adopt(self, mapping: str, identity: str) -> bool:
        await self._answer()
        anew = self.identities.get(mapping, identity) != identity
        self.identities[mapping] = identity
        if anew:
            for (of, partition), row in self.rows.items():
                if of == mapping:
                    self.rows[of, partition] = _Row(epoch=row.epoch + 1)
        return anew

    async def announce(self, mapping: str, owner: str, ttl_s: float) -> Sequence[str]:
        await self._answer()
        self.members[mapping, owner] = self.clock.monotonic() + ttl_s
        return [
            o for (m, o), until in self.members.items() if m == mapping and until > self.clock.monotonic()
        ]

    async def partitions(self, mapping: str) -> Sequence[PartitionRow]:
        await self._answer()
        return [
            PartitionRow(
                partition,
                row.owner if row.expires_at > self.clock.monotonic() else None,
                row.epoch,
                row.position,
                row.ended,
                None if row.missing_since is None else self.clock.now() - row.missing_since,
                row.expires_at - self.clock.monotonic() if row.expires_at > self.clock.monotonic() else None,
            )
            for (of, partition), row in self.rows.items()
            if of == mapping
        ]

    async def take(self, mapping: str, partition: str, owner: str, ttl_s: float) -> Lease | None:
        await self._answer()
        row = self.rows.setdefault((mapping, partition), _Row())
        now = self.clock.monotonic()
        if row.ended or (row.owner not in (None, owner) and row.expires_at > now):
            return None
        row.owner, row.epoch, row.expires_at = owner, row.epoch + 1, now + ttl_s
        return Lease(mapping, partition, owner, row.epoch)

    async def renew(self, leases: Sequence[Lease], ttl_s: float) -> Sequence[Lease]:
        await self._answer()
        kept = [lease for lease in leases if self._is_of(lease)]
        for lease in kept:
            self.rows[lease.mapping, lease.partition].expires_at = self.clock.monotonic() + ttl_s
        return kept

    async def release(self, lease: Lease, *, ended: bool = False) -> None:
        await self._answer()
        if self._is_of(lease):
            row = self.rows[lease.mapping, lease.partition]
            row.owner, row.ended = None, ended

    async def cursor(self, lease: Lease) -> Position | None:
        await self._answer()
        row = self.rows.get((lease.mapping, lease.partition))
        return None if row is None else row.position

    async def commit(self, lease: Lease, checkpoint: Checkpoint) -> None:
        await self._answer()
        if not self._is_of(lease):
            raise LeaseLost(f"{lease.partition}: epoch {lease.epoch} is over")
        self.rows[lease.mapping, lease.partition].position = checkpoint.position
        self.commits.append((lease.partition, checkpoint.position))

    async def note_missing(self, mapping: str, missing: Sequence[str], found: Sequence[str]) -> None:
        await self._answer()
        for (of, partition), row in self.rows.items():
            if of == mapping and partition in missing and row.missing_since is None:
                row.missing_since = self.clock.now()
            if of == mapping and partition in found:
                row.missing_since = None

    async def forget(self, mapping: str, partitions: Sequence[str]) -> None:
        await self._answer()
        for partition in partitions:
            self.rows.pop((mapping, partition), None)

    async def aclose(self) -> None:
        pass

    def _is_of(self, lease: Lease) -> bool:
        row = self.rows.get((lease.mapping, lease.partition))
        return row is not None and (row.owner, row.epoch) == (lease.owner, lease.epoch)
