"""The kinds of source in a simulation: queues with an order and without, a leased stream, a group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from msgspec import structs

from millstream.contract.errors import Refused
from millstream.contract.ports import BatchLimits, QueuePolicy, RetryInPlace
from millstream.contract.records import Record
from millstream.contract.state import Lease
from millstream.contract.streams import Oldest, Page, Partition, Start, StreamPolicy, StreamReader
from millstream.mappings.batcher import room_bytes
from millstream.mappings.filters import compile_filters
from millstream.mappings.group import GroupRunner
from millstream.mappings.lanes import ReadAhead
from millstream.mappings.partitions import PartitionsRunner
from millstream.mappings.process import Processor, Route
from millstream.mappings.queue import QueueRunner, QueueSettings
from millstream.mappings.scaling import scaler_of
from millstream.mappings.stream import StreamRunner
from millstream.mappings.stream_process import StreamRoute
from millstream.mappings.supervise import Runner
from millstream.mappings.tenure import Tenure
from tests.fakes import FUNCTION, FakeQueue, FakeTrigger
from tests.group_fakes import FakeGroup, FakeGroupReader
from tests.simulation.schedules import Move, Policy, Source
from tests.simulation.world import World, opened
from tests.stream_fakes import FakePartition, FakeReader, FakeStream, FakeStreamTrigger, MemoryStore

AHEAD = ReadAhead(records=20, span=200, bytes=60_000)
PARTITIONS = ("a", "b", "c")
WINDOW_S = 4


class QueueWorld(World):
    """A queue without an order, read by one daemon."""

    ordered = False

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._queue = (_Fifo if self.ordered else _Queue)(self.clock, 30.0, world=self)
        retries = RetryInPlace(1.0, 60.0, 900.0) if policy.in_place and not self.ordered else None
        self._policy = QueuePolicy(
            item_failures=policy.item_failures,
            max_retries=policy.max_retries,
            drops_too_large=True,
            in_place=retries,
        )

    def partition_of(self, number: int) -> str:
        return "q"

    def send(self, records: Sequence[Record]) -> None:
        self._queue.put(*records)

    def at_rest(self) -> bool:
        return not self._queue.visible and not self._queue.hidden

    def runner(self, owner: str) -> AbstractAsyncContextManager[Runner]:
        limits = BatchLimits(self.policy.size, self.policy.window_s)
        trigger = FakeTrigger(self._queue, limits, self._policy)
        scaler = scaler_of(self._policy, self.clock.monotonic())
        route = Route("m", FUNCTION, self._policy, None, self.destination)
        processor = Processor(route, trigger, self._queue, self.function, scaler, self.observer, self.clock)
        room = room_bytes(trigger.envelope, ["q"])
        settings = QueueSettings("m", limits, 10, self.ordered, room, 1 << 20)
        filters = compile_filters((), trigger.filter_rules)
        return opened(
            QueueRunner(settings, self._queue, filters, processor, scaler, self.observer, self.clock)
        )


@dataclass
class _Queue(FakeQueue):
    world: World | None = None

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        assert self.world is not None
        until = self.clock.monotonic() + wait_s
        while True:
            await self.clock.sleep(0)
            if (fault := self.world.fault()) is not None:
                raise fault
            self._reappear()
            if found := self._found(limit):
                return found
            if self.clock.monotonic() >= until:
                return []
            await self.clock.sleep(min(1.0, until - self.clock.monotonic()))

    def _found(self, limit: int) -> list[Record]:
        return [self._hand_out() for _ in range(min(limit, len(self.visible)))]


class FifoWorld(QueueWorld):
    """A queue whose groups keep their order, read by one daemon."""

    ordered = True
    keys = 2  # so that batches hold several records of a group


class _Fifo(_Queue):
    """Hands out a group's records in order, and none while one of the group is hidden."""

    def _found(self, limit: int) -> list[Record]:
        held = {record.ordering_key for record, _ in self.hidden.values()}
        in_order = sorted(self.visible, key=lambda record: int(record.position))
        free = [record for record in in_order if record.ordering_key not in held]
        self.visible = deque(free + [record for record in in_order if record.ordering_key in held])
        return [self._hand_out() for _ in range(min(limit, len(free)))]


class _StreamOfAll(World):
    """What streams of both kinds share."""

    has_windows = False

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._limits = BatchLimits(policy.size, policy.window_s)
        windowed = self.has_windows and policy.tumbling
        self._stream_policy = StreamPolicy(
            item_failures=policy.item_failures,
            max_retries=policy.max_retries,
            bisect=policy.bisect,
            on_failure_required=policy.required,
            lanes=1 if policy.shared or windowed else policy.lanes,
            tumbling_window_s=WINDOW_S if windowed else 0,
            share_batches=policy.shared,
        )

    def partition_of(self, number: int) -> str:
        return PARTITIONS[number % len(PARTITIONS)]

    def _reading(
        self, reader: StreamReader, cursors: MemoryStore | FakeGroup, leases: Sequence[Lease], tenure: Tenure
    ) -> StreamRunner:
        trigger = FakeStreamTrigger(FakeStream(self.clock), self._limits, self._stream_policy)
        return StreamRunner(
            StreamRoute("m", FUNCTION, self._stream_policy, None, self.destination),
            trigger,
            reader,
            "arn",
            compile_filters((), trigger.filter_rules),
            self.function,
            cursors,
            leases,
            tenure,
            AHEAD,
            self.observer,
            self.clock,
        )


class LeasedWorld(_StreamOfAll):
    """A stream of three partitions, which two daemons share by leases in a store."""

    daemons = 2
    has_windows = True

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._store = MemoryStore(self.clock)
        self._stream = _Stream(self.clock, world=self)
        self._open: dict[str, str] = {}  # by the first partition: what it was split into last
        for partition in PARTITIONS:
            self._stream.add(partition)
            self._open[partition] = partition

    def partition_of(self, number: int) -> str:
        return self._open[super().partition_of(number)]

    def move(self, move: Move) -> None:
        """End a partition; what is sent to it from now on goes to a child of it."""
        first = PARTITIONS[move.partition]
        parent = self._open[first]
        child = self._open[first] = f"{parent}'"
        self._stream.add(child, parent)
        self._stream.parts[parent].ended = True

    def send(self, records: Sequence[Record]) -> None:
        self._stream.put(*records)

    def store_away(self, away: bool) -> None:
        self._store.broken = away

    def at_rest(self) -> bool:
        last = {record.partition: record.position for record in self.sent}
        rows = {partition: row.position for (_, partition), row in self._store.rows.items()}
        return all(rows.get(partition) == position for partition, position in last.items())

    @asynccontextmanager
    async def runner(self, owner: str) -> AsyncIterator[Runner]:
        def make(reader: StreamReader, lease: Lease, tenure: Tenure, share: float) -> StreamRunner:
            return self._reading(reader, self._store, [lease], tenure)

        runner = PartitionsRunner(
            "m", owner, self._stream, Oldest(), self._store, make, self.observer, self.clock
        )
        await runner.begin()
        yield runner


@dataclass
class _Stream(FakeStream):
    world: World | None = None

    async def partitions(self) -> Sequence[Partition]:
        self._check()
        assert self.world is not None
        if self.world.source is Source.UNLISTED:
            raise Refused("s: AccessDenied")
        return await super().partitions()

    async def reader(self, partition: Partition, start: Start) -> FakeReader:
        self._check()
        opened_ = await super().reader(partition, start)
        return _Reader(self, opened_.part, opened_.next, empty_pages=1)

    def _check(self) -> None:
        assert self.world is not None
        if (fault := self.world.fault()) is not None:
            raise fault

    def add(self, partition: str, *parents: str, closed: bool = False) -> FakePartition:
        return super().add(partition, *parents, closed=closed)


class _Reader(FakeReader):
    async def read(self, limit: int, wait_s: float) -> Page:
        assert isinstance(self.stream, _Stream)
        self.stream._check()
        page = await super().read(limit, wait_s)
        now = self.stream.clock.now()
        return replace(page, records=[_as_read(record, now) for record in page.records])


def _as_read(record: Record, now: float) -> Record:
    """A record as it is received; one that cannot be read has no time of its own."""
    at = record.arrived_at if record.refused is None else now
    return structs.replace(record, arrived_at=at, received_at=now)


class GroupWorld(_StreamOfAll):
    """Partitions that a broker hands out to one member, and takes away."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._parts: dict[str, list[Record]] = {partition: [] for partition in PARTITIONS}
        self._cursors: dict[str, int] = {}
        self._member: _Group | None = None
        self._away: dict[str, asyncio.Event] = {}  # set once the member has given the partition up

    def send(self, records: Sequence[Record]) -> None:
        for record in records:
            self._parts[record.partition].append(record)

    def at_rest(self) -> bool:
        for partition in [partition for partition, given_up in self._away.items() if given_up.is_set()]:
            self._give_back(partition)
        last = {record.partition: int(record.position) for record in self.sent}
        return all(self._cursors.get(partition) == position for partition, position in last.items())

    def move(self, move: Move) -> None:
        partition = PARTITIONS[move.partition]
        if partition in self._away:
            self._give_back(partition)
        elif self._member is not None:
            self._away[partition] = self._member.revoke(partition, within_s=0.0 if move.lost else 10.0)

    def _give_back(self, partition: str) -> None:
        """No broker hands a partition out before whoever had it has given it up."""
        if self._member is not None and self._away[partition].is_set():
            del self._away[partition]
            self._member.assign(partition)

    @asynccontextmanager
    async def runner(self, owner: str) -> AsyncIterator[Runner]:
        if (fault := self.fault()) is not None:
            raise fault
        member = _Group(self.clock, self._parts, self._cursors, world=self)
        store = MemoryStore(self.clock)

        def make(reader: StreamReader, leases: Sequence[Lease], tenure: Tenure, share: float) -> StreamRunner:
            return self._reading(reader, member, leases, tenure)

        runner = GroupRunner(
            "m", owner, member, Oldest(), self.policy.shared, store, make, self.observer, self.clock
        )
        await runner.begin()
        member.assign(*(partition for partition in PARTITIONS if partition not in self._away))
        self._member = member
        try:
            yield runner
        finally:
            self._member = None
            for given_up in self._away.values():
                given_up.set()


@dataclass
class _Group(FakeGroup):
    world: World | None = None

    async def reader(self, leases: Sequence[Lease]) -> FakeGroupReader:
        behind = {lease.partition: self.cursors.get(lease.partition, -1) for lease in leases}
        return _GroupReader(self, behind)


class _GroupReader(FakeGroupReader):
    async def read(self, limit: int, wait_s: float) -> Page:
        assert isinstance(self.group, _Group)
        assert self.group.world is not None
        if (fault := self.group.world.fault()) is not None:
            raise fault
        await asyncio.sleep(0)
        return await super().read(limit, wait_s)
