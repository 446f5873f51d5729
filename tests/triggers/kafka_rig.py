"""A Kafka source, opened on a real broker, and what its tests do with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from millstream.contract.clock import SystemClock
from millstream.contract.errors import SourceUnavailable
from millstream.contract.groups import Assigned, Change, Revoked
from millstream.contract.ports import Host
from millstream.contract.records import Batch, CursorTracker, Done, Record, resolve_all
from millstream.contract.state import Lease
from millstream.contract.streams import At, Oldest, StreamReader
from millstream.triggers.kafka import KafkaTrigger
from millstream.triggers.kafka_source import KafkaSource
from tests.fakes import FUNCTION, FakeFunction

WITHIN_S = 30.0


@dataclass
class Opened:
    """One member of the group."""

    trigger: KafkaTrigger
    source: KafkaSource

    async def change(self) -> Change:
        async with asyncio.timeout(WITHIN_S):
            return await self.source.change()

    async def assigned(self, *, count: int) -> list[Lease]:
        """Leases of partitions as they come, until it has so many."""
        leases: list[Lease] = []
        while len(leases) < count:
            change = await self.change()
            leases += _leases(change)
        return sorted(leases, key=lambda lease: lease.partition)

    async def revoked(self) -> Revoked:
        change = await self.change()
        assert isinstance(change, Revoked)
        return change

    async def read(self, reader: StreamReader, count: int) -> list[Record]:
        """So many records, and not one more."""
        found: list[Record] = []
        async with asyncio.timeout(WITHIN_S):
            while len(found) < count:
                found += (await reader.read(count, 0.5)).records
        assert len(found) == count
        return found

    async def read_through(self, reader: StreamReader, count: int) -> list[Record]:
        """So many records, over faults and a new assignment of the partitions."""
        found: list[Record] = []
        async with asyncio.timeout(2 * WITHIN_S), asyncio.TaskGroup() as group:
            change = group.create_task(self.source.change())
            while len(found) < count:
                if change.done():
                    if isinstance(change.result(), Assigned):
                        reader = await self.source.reader(_leases(change.result()))
                    change = group.create_task(self.source.change())
                try:
                    found += (await reader.read(count, 0.2)).records
                except SourceUnavailable:
                    await asyncio.sleep(0.1)  # as the core waits; a read that fails may not wait at all
            change.cancel()
        return found

    async def commit(self, lease: Lease, records: Sequence[Record]) -> None:
        """Resolve records that were read, and have their cursor committed."""
        tracker = CursorTracker(lease.partition)
        tracker.admit(records)
        for checkpoint in tracker.complete(resolve_all(Batch(tuple(records)), Done())):
            await self.source.commit(lease, checkpoint)


@asynccontextmanager
async def opened(
    bootstrap: str,
    topic: str,
    start: Oldest | At | None = Oldest(),
    *,
    group: str = "",
    **options: Any,
) -> AsyncIterator[Opened]:
    """An opened source that has joined, unless `start` is None."""
    declared = {"bootstrap_servers": bootstrap, "starting_position": "TRIM_HORIZON", "session_timeout": 6}
    trigger = KafkaTrigger.parse({"topic": topic, **declared, **options})
    clock = SystemClock()
    host = Host(Path(), clock, FakeFunction(clock), mapping=group or f"g-{topic}")
    source = await trigger.open(host, FUNCTION)
    try:
        if start is not None:
            await source.join(start)
        yield Opened(trigger, source)
    finally:
        async with asyncio.timeout(WITHIN_S):
            await source.aclose()
        gc.collect()  # here, where a client library that leaks is known


def _leases(change: Change) -> list[Lease]:
    assert isinstance(change, Assigned)
    return [Lease("m", partition, "me", change.epoch) for partition in change.partitions]


def produce(bootstrap: str, topic: str, partition: int, values: Sequence[bytes | None], **more: Any) -> None:
    """Messages to one partition, in order."""
    producer = _producer(bootstrap)
    for value in values:
        producer.produce(topic, value, partition=partition, **more)
    assert producer.flush(WITHIN_S) == 0


@lru_cache(maxsize=2)
def _producer(bootstrap: str) -> Producer:
    """Kept for the next test: the first message of an idempotent one takes half a second."""
    settings = {
        "bootstrap.servers": bootstrap,
        "linger.ms": 5,
        "log_level": 0,
        "reconnect.backoff.max.ms": 500,
    }
    # Without idempotence, a batch that is sent again may come behind its successor.
    return Producer({**settings, "enable.idempotence": True})


def numbered(first: int, count: int) -> list[bytes]:
    return [str(number).encode() for number in range(first, first + count)]


def offsets(records: Sequence[Record]) -> list[int]:
    return [int(record.position) for record in records]
