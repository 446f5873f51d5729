"""A stream runner with ports in memory and a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from millstream.contract.clock import Clock
from millstream.contract.functions import MAX_PAYLOAD_BYTES, Outcome, TooLarge
from millstream.contract.ports import BatchLimits
from millstream.contract.records import Record
from millstream.contract.state import Lease
from millstream.contract.streams import After, Oldest, Partition, Start, StreamPolicy, StreamReader
from millstream.mappings.filters import compile_filters
from millstream.mappings.lanes import ReadAhead, read_ahead
from millstream.mappings.reading import PartitionReader
from millstream.mappings.stream import StreamRunner
from millstream.mappings.stream_process import StreamRoute
from millstream.mappings.tenure import Tenure
from tests.clock import VirtualClock
from tests.fakes import FUNCTION, SUCCESS, FakeDestination, FakeObserver
from tests.stream_fakes import FakePartition, FakeStream, FakeStreamTrigger, MemoryStore

LEASE_S = 1e9


@dataclass
class StreamFunction:
    """An invoker: `answer` gets an event, decoded, and says what comes of it."""

    clock: Clock
    answer: Callable[[dict[str, Any]], Outcome] = lambda event: SUCCESS
    takes_s: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    async def invoke(self, function: str, event: bytes) -> Outcome:
        if len(event) > MAX_PAYLOAD_BYTES:
            return TooLarge(len(event), MAX_PAYLOAD_BYTES)
        decoded = json.loads(event)
        self.events.append(decoded)
        self.at.append(self.clock.monotonic())
        await self.clock.sleep(self.takes_s)
        return self.answer(decoded)

    @property
    def batches(self) -> list[list[int]]:
        return [[record["n"] for record in event["Records"]] for event in self.events]

    @property
    def seen(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


def by_numbers(answer: Callable[[list[int]], Outcome]) -> Callable[[dict[str, Any]], Outcome]:
    """An answer that looks at the numbers of the records alone."""
    return lambda event: answer([record["n"] for record in event["Records"]])


@dataclass
class World:
    """What outlives a runner: the stream, the store, the function and what they saw."""

    clock: VirtualClock
    stream: FakeStream
    part: FakePartition
    store: MemoryStore
    function: StreamFunction
    destination: FakeDestination
    observer: FakeObserver
    trigger: FakeStreamTrigger
    filters: tuple[object, ...] = ()
    has_destination: bool = True
    ahead: ReadAhead | None = None

    def runner(self, reader: StreamReader, lease: Lease, tenure: Tenure, share: float = 1.0) -> StreamRunner:
        policy, limits = self.trigger.policy, self.trigger.limits
        on_failure = self.destination if self.has_destination else None
        return StreamRunner(
            StreamRoute("m", FUNCTION, policy, None, on_failure),
            self.trigger,
            reader,
            self.stream.event_source_arn,
            compile_filters(self.filters, self.trigger.filter_rules),
            self.function,
            self.store,
            [lease],
            tenure,
            self.ahead or read_ahead(limits, policy.lanes, 1 << 24),
            self.observer,
            self.clock,
        )

    @asynccontextmanager
    async def running(self, owner: str = "me") -> AsyncIterator[Rig]:
        """A runner under a new lease, from where the last one came to; stopped softly at the end."""
        lease = await self.store.take("m", "p", owner, LEASE_S)
        assert lease is not None
        cursor = await self.store.cursor(lease)
        start: Start = Oldest() if cursor is None else After(cursor)
        reader = PartitionReader(self.stream, Partition("p"), start)
        runner = self.runner(reader, lease, Tenure(self.clock, LEASE_S))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(runner.run())
            await self.clock.settle()
            yield Rig(self, runner, task)
            runner.stop()
            for _ in range(2000):
                if task.done():
                    break
                await self.clock.advance(0.5)
            assert task.done(), "the runner did not stop"
        await reader.aclose()

    @property
    def cursor(self) -> int:
        """The position of the last checkpoint; -1 if there is none."""
        row = self.store.rows.get(("m", "p"))
        return -1 if row is None or row.position is None else int(row.position)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Documents that the on-failure destination holds."""
        return [json.loads(record.body) for record in self.destination.records]


@dataclass
class Rig:
    world: World
    runner: StreamRunner
    task: asyncio.Task[bool]

    async def until(self, happened: Callable[[], bool], within_s: float = 3600.0) -> None:
        """Let time pass until it happened."""
        for _ in range(int(within_s / 0.5)):
            if happened():
                return
            await self.world.clock.advance(0.5)
        raise AssertionError(f"not within {within_s} s; seen {self.world.function.batches[-5:]}")

    async def until_at(self, position: int, within_s: float = 3600.0) -> None:
        """Let time pass until all up to `position` is behind the checkpoint."""
        await self.until(lambda: self.world.cursor >= position, within_s)


def world(
    *records: Record,
    limits: BatchLimits = BatchLimits(10, 0.0),
    policy: StreamPolicy = StreamPolicy(),
    answer: Callable[[dict[str, Any]], Outcome] = lambda event: SUCCESS,
    takes_s: float = 0.0,
    filters: tuple[object, ...] = (),
    has_destination: bool = True,
    ahead: ReadAhead | None = None,
) -> World:
    """A stream of one partition "p" with these records."""
    clock = VirtualClock()
    stream = FakeStream(clock)
    part = stream.add("p")
    stream.put(*records)
    trigger = FakeStreamTrigger(stream, limits, policy)
    function = StreamFunction(clock, answer, takes_s)
    return World(
        clock,
        stream,
        part,
        MemoryStore(clock),
        function,
        FakeDestination(),
        FakeObserver(),
        trigger,
        filters,
        has_destination,
        ahead,
    )
