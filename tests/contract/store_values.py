"""What the tests of state stores write, and how they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, TypeVar

from millstream.contract.records import (
    Batch,
    Checkpoint,
    CursorTracker,
    Done,
    Position,
    Record,
    resolve_all,
)
from millstream.contract.state import Lease, MappingRow, MappingStatus, StateStore

ROW = MappingRow("u1", "shop", "on_order", "sqs", "orders", enabled=True, last_modified=1000.5)
OTHER = MappingRow("u2", "shop", "on_paid", "sqs", "paid", enabled=False, last_modified=1001.0)
STATUS = MappingStatus(
    "u1",
    "Enabled",
    state_reason="USER_INITIATED",
    last_result="OK",
    updated_at=1002.25,
    received=9,
    filtered=1,
    delivered=5,
    returned=2,
    discarded=6,
    dropped=3,
    invocations=4,
    errors=7,
    throttles=8,
    invoked_records=2**40,
    failed_records=10,
    delivery_failures=11,
    iterator_age_s=0.125,
    partitions=12,
)
OWNER = "daemon-1"
LONG_S = 60.0
SHORT_S = 0.05
WITHIN_S = 15.0

T = TypeVar("T")
Opens: TypeAlias = Callable[[], AbstractAsyncContextManager[StateStore]]


def checkpoint(position: str, partition: str = "p") -> Checkpoint:
    """A true one, from records that were resolved."""
    record = Record(
        partition=partition,
        position=Position(position),
        item_id=position,
        event=b"{}",
        arrived_at=0.0,
        received_at=0.0,
    )
    tracker = CursorTracker(partition)
    tracker.admit([record])
    (made,) = tracker.complete(resolve_all(Batch((record,)), Done()))
    return made


def lease(epoch: int = 1, mapping: str = "u1", partition: str = "p", owner: str = OWNER) -> Lease:
    """As `take` makes them; the store may know nothing of it."""
    return Lease(mapping, partition, owner, epoch)


async def taken(
    store: StateStore, partition: str = "p", owner: str = OWNER, mapping: str = "u1", ttl_s: float = LONG_S
) -> Lease:
    """A lease that is there to be had."""
    made = await store.take(mapping, partition, owner, ttl_s)
    assert made is not None
    return made


async def until(ask: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer; for what only time brings."""
    async with asyncio.timeout(WITHIN_S):
        while not (answer := await ask()):
            await asyncio.sleep(0.005)
    return answer
