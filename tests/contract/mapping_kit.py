"""What a mapping on every source must do, with its whole core, on a real broker.

A test module subclasses `MappingKit` and gives it a `Broker`. Functions and destinations are in memory.
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from millstream.contract.clock import Clock
from millstream.contract.functions import (
    MAX_PAYLOAD_BYTES,
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Success,
    TooLarge,
)
from millstream.contract.ports import Destination, Host, QueueTrigger
from millstream.contract.records import Record, Resolution
from millstream.contract.state import MappingRow
from millstream.contract.stream_trigger import StreamTrigger
from millstream.daemon.opening import Opening
from millstream.daemon.plan import PlannedMapping
from millstream.mappings.filters import compile_filters
from millstream.mappings.supervise import Supervisor
from millstream.store.sqlite import SqliteStore
from tests.fakes import FakeDestination, FakeObserver
from tests.hostile.corpus import CORPUS, Odd

WITHIN_S = 60.0
OUTAGE_S = 180.0
TIMES_FASTER = 30.0
FUNCTION = FunctionSpec(
    "f", "arn:aws:lambda:us-east-1:000000000000:function:f", "f.f", Path("/none"), timeout_s=1
)
FAILURE = FunctionFailed("Exception", "down", b'{"errorType":"Exception"}', "request-1")


class Broker(ABC):
    """A new, empty source on a real broker, and how it is declared."""

    broker_url: str
    trigger: type[QueueTrigger] | type[StreamTrigger]
    kind: str
    options: Mapping[str, object]  # a batch holds ten records at most
    gives_up: ClassVar[Mapping[str, object]]  # options by which a record is given up after its first failure
    largest: int  # bytes of data of the largest record that the source takes, or of 1 MB
    gives_up_odds: int | None = None  # of the odd records that are sent. None: it is not known how many
    redelivers_within_s: float = 15.0  # what was given back comes again by then

    @abstractmethod
    def put(self, data: str) -> None:
        """Send one good record, behind all that was sent before."""

    @abstractmethod
    def put_odd(self, odd: Odd) -> bool:
        """Send an odd record as it is. False: no producer can send it to a source of this kind."""

    def put_own_odds(self) -> int:
        """Send the odd records that only this source can have; how many there were."""
        return 0

    @abstractmethod
    def records(self, event: Any) -> Sequence[Any]:
        """The records' parts of an event."""

    @abstractmethod
    def data(self, record: Any) -> bytes | None:
        """The data of a record's part of an event. None: it has none."""

    @abstractmethod
    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        """True once the mapping's position stands at the source's end: nothing of it would come again."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the source."""

    @abstractmethod
    def create(self) -> None:
        """Make the source, under its name."""

    keeps_order: ClassVar[bool] = True
    can_be_made_anew: ClassVar[bool] = True  # a queue has no positions that could be mistaken


async def positions(store: SqliteStore, mapping: str) -> list[str | None]:
    """The cursors of a stream's partitions that have not ended, as the store has them."""
    return [row.position for row in await store.partitions(mapping) if not row.ended]


class FastClock:
    """The host's clocks; what is waited for takes a fraction of its time."""

    def __init__(self, times_faster: float = 1.0) -> None:
        self._times_faster = times_faster

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() * self._times_faster

    async def sleep(self, for_s: float) -> None:
        await asyncio.sleep(max(for_s, 0.0) / self._times_faster)


@dataclass
class Function:
    """An invoker: keeps what it was given."""

    broker: Broker
    answer: Callable[[list[bytes | None]], Outcome] = lambda data: Success(b"null", "request-1")
    taken: list[bytes | None] = field(default_factory=list)  # the data of records that it took
    sizes: list[int] = field(default_factory=list)
    tries: int = 0
    too_large: int = 0

    async def invoke(self, function: str, event: bytes) -> Outcome:
        if len(event) > MAX_PAYLOAD_BYTES:
            self.too_large += 1
            return TooLarge(len(event), MAX_PAYLOAD_BYTES)
        self.tries += 1
        self.sizes.append(len(event))
        data = [self.broker.data(record) for record in self.broker.records(json.loads(event))]
        outcome = self.answer(data)
        if isinstance(outcome, Success):
            self.taken += data
        return outcome

    def count(self, data: str) -> int:
        """How often it took a good record."""
        return self.taken.count(data.encode())


@dataclass
class Watcher(FakeObserver):
    """Counts what became of records."""

    discarded: int = 0

    def record_discarded(self, mapping: str, records: Sequence[Record], reason: object) -> None:
        self.discarded += len(records)

    def batch_resolved(self, mapping: str, resolution: Resolution) -> None:
        pass


@dataclass
class Running:
    broker: Broker
    function: Function
    destination: FakeDestination
    observer: Watcher
    store: SqliteStore

    async def until(self, holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait for what a broker and threads do, which give no signal."""
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.02)

    async def until_at_end(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not await self.broker.at_end(self.store, "m"):
                await asyncio.sleep(0.05)


class MappingKit:
    """The suite; a subclass gives a fixture `broker`."""

    @pytest.fixture
    def broker(self) -> Broker:
        raise NotImplementedError

    @asynccontextmanager
    async def running(
        self,
        broker: Broker,
        folder: Path,
        *,
        options: Mapping[str, object] | None = None,
        function: Function | None = None,
        destination: FakeDestination | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator[Running]:
        """A mapping that runs, from its source to functions and destinations in memory."""
        clock, observer = clock or FastClock(), Watcher()
        function = function or Function(broker)
        trigger = broker.trigger.parse({**broker.options, **(options or {})})
        failures = destination or FakeDestination()
        on_failure: Destination | None = failures if options or destination else None
        store = SqliteStore(folder / "state.db")
        row = await store.put_mapping(MappingRow("m", "app", "f", broker.kind, trigger.source, True, 0.0))
        filters = compile_filters((), trigger.filter_rules)
        planned = PlannedMapping(broker.kind, trigger, "f", filters, 0, None, on_failure, True, "here")
        host = Host(folder, clock, function, broker.broker_url, "us-east-1")
        opening = Opening(row, planned, FUNCTION, host, observer, store, "me", 64 << 20)
        supervisor = Supervisor("m", opening.runner, observer, clock)
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(supervisor.run())
                yield Running(broker, function, failures, observer, store)
                supervisor.stop()
                async with asyncio.timeout(WITHIN_S):
                    await asyncio.wait([task])
        finally:
            await store.aclose()

    async def test_odd_records_cost_no_good_one(self, broker: Broker, tmp_path: Path) -> None:
        """Good records come once, odd ones to function or destination, and the position gets to the end."""
        good, odds = 0, 0
        for odd in CORPUS:
            broker.put(f"good {good}")
            good += 1
            odds += broker.put_odd(odd)
        odds += broker.put_own_odds()
        broker.put(f"good {good}")
        good += 1
        async with self.running(broker, tmp_path, destination=FakeDestination()) as it:
            await it.until(lambda: len(it.function.taken) + it.observer.discarded >= good + odds)
            await it.until_at_end()
        counts = Counter(it.function.taken)
        assert {n: counts[f"good {n}".encode()] for n in range(good)} == dict.fromkeys(range(good), 1)
        assert len(it.function.taken) + it.observer.discarded == good + odds
        assert broker.gives_up_odds in (None, it.observer.discarded)
        assert it.observer.dropped == 0

    async def test_what_is_refused_now_is_read_once_it_is_allowed(
        self, broker: Broker, tmp_path: Path
    ) -> None:
        broker.remove()
        async with self.running(broker, tmp_path) as it:
            await it.until(lambda: bool(it.observer.refusals))
            assert not [state for state, _ in it.observer.states if state == "Disabled"]
            broker.create()
            broker.put("after")
            await it.until(lambda: it.function.count("after") == 1)

    async def test_a_source_that_is_made_anew_under_its_name_is_read_from_its_beginning(
        self, broker: Broker, tmp_path: Path
    ) -> None:
        if not broker.can_be_made_anew:
            pytest.skip("a source of its name has no positions of the one before")
        for number in range(10):
            broker.put(f"old {number}")
        async with self.running(broker, tmp_path) as it:
            await it.until(lambda: len(it.function.taken) == 10)
            await it.until_at_end()
            broker.remove()
            broker.create()
            for number in range(15):
                broker.put(f"new {number}")
            await it.until(lambda: all(it.function.count(f"new {n}") for n in range(15)))
            await it.until_at_end()
        new = [int(data[4:]) for data in it.function.taken if data and data.startswith(b"new")]
        assert (new if broker.keeps_order else sorted(new)) == list(range(15))

    async def test_the_largest_records_fill_events_and_pass_no_limit(
        self, broker: Broker, tmp_path: Path
    ) -> None:
        letters = "abcdefghijklmnop"
        for letter in letters:
            broker.put(letter * broker.largest)
        async with self.running(broker, tmp_path) as it:
            await it.until(lambda: len(it.function.taken) == len(letters))
            await it.until_at_end()
        assert Counter(it.function.taken) == {(x * broker.largest).encode(): 1 for x in letters}
        assert max(it.function.sizes) <= MAX_PAYLOAD_BYTES
        assert it.function.too_large == 0
        assert it.observer.failed_batches == 0

    async def test_an_outage_of_three_minutes_loses_nothing(self, broker: Broker, tmp_path: Path) -> None:
        clock = FastClock(TIMES_FASTER)
        ends_at = clock.monotonic() + OUTAGE_S

        def answer(data: list[bytes | None]) -> Outcome:
            return FAILURE if clock.monotonic() < ends_at else Success(b"null", "request-1")

        for number in range(20):
            broker.put(f"record {number}")
        async with self.running(broker, tmp_path, function=Function(broker, answer), clock=clock) as it:
            await it.until(lambda: clock.monotonic() >= ends_at)
            assert it.function.tries >= 2
            await it.until(
                lambda: all(it.function.count(f"record {n}") for n in range(20)),
                WITHIN_S + broker.redelivers_within_s,
            )
            await it.until_at_end()
        assert it.observer.dropped == it.observer.discarded == it.observer.rejected == 0

    async def test_a_destination_smaller_than_the_document_has_all_records_all_the_same(
        self, broker: Broker, tmp_path: Path
    ) -> None:
        for number in range(10):
            broker.put(f"record {number} " + "x" * 500)
        small = FakeDestination(limit_bytes=2500)
        function = Function(broker, lambda data: FAILURE)
        async with self.running(
            broker, tmp_path, options=broker.gives_up, function=function, destination=small
        ) as it:
            await it.until(lambda: it.observer.discarded == 10)
            await it.until_at_end()
        assert all(document.size_bytes <= 2500 for document in small.records)
        assert it.observer.dropped == 0
