"""What every queue trigger must do. A trigger's test module subclasses `QueueKit` and gives it a `Source`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import InvalidConfiguration, SourceUnavailable
from millstream.contract.functions import FunctionSpec, Outcome
from millstream.contract.ports import Host, QueueReader, QueueTrigger
from millstream.contract.records import (
    Batch,
    DestinationReceipt,
    Discarded,
    Done,
    Reason,
    Record,
    Rejected,
    Returned,
    Verdict,
    resolve,
    resolve_all,
)
from tests.brokers.relay import Relay

WITHIN_S = 15.0
CLOSED_WITHIN_S = 1.0
FUNCTION = FunctionSpec(
    "f", "arn:aws:lambda:us-east-1:000000000000:function:f", "f.f", Path("/none"), timeout_s=1
)


class NoInvoker:
    """Invokes nothing: a trigger has no need to."""

    async def invoke(self, function: str, event: bytes) -> Outcome:
        raise AssertionError("a trigger invoked a function")


class Source(ABC):
    """A new, empty queue on a broker, whose records stay hidden for `lease_s`."""

    broker_url: str
    options: Mapping[str, object]
    poll_mark: bytes  # bytes of a request that a reader sends before, or as, it polls
    lease_s: float  # by then what was not settled has come again

    def options_at(self, url: str) -> Mapping[str, object]:
        """The options of a mapping that reaches the broker at `url`, the endpoint of its host."""
        return self.options

    @abstractmethod
    def put(self, data: str, key: str = "k") -> None:
        """Send one message; `key` orders it where the queue orders."""

    @abstractmethod
    def data(self, record: Record) -> str:
        """The data that was put, taken from a record's event."""


def host(url: str) -> Host:
    return Host(Path("/none"), SystemClock(), NoInvoker(), url, "us-east-1")


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what gives no signal."""
    async with asyncio.timeout(WITHIN_S):
        while not happened():
            await asyncio.sleep(0.01)


async def receive(reader: QueueReader, count: int) -> list[Record]:
    """`count` records, in read order."""
    records: list[Record] = []
    async with asyncio.timeout(WITHIN_S):
        while len(records) < count:
            records += await reader.receive(count - len(records), 1.0)
    return records


async def settle(reader: QueueReader, records: Sequence[Record], verdict: Verdict | None = None) -> None:
    await reader.settle(resolve_all(Batch(tuple(records)), verdict or Done()))


def open_sockets() -> int:
    links = (os.path.realpath(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd"))
    return sum("socket:" in link for link in links)


class QueueKit:
    """The suite; a subclass gives the class, a fixture `source`, and options that must be refused."""

    trigger: type[QueueTrigger]
    bad_options: Sequence[tuple[str, object]]

    @pytest.fixture
    def source(self) -> Source:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, source: Source, url: str | None = None) -> AsyncIterator[QueueReader]:
        reader = await self.reader(source, url or source.broker_url)
        try:
            yield reader
        finally:
            await reader.aclose()

    async def reader(self, source: Source, url: str) -> QueueReader:
        return await self.trigger.parse(source.options_at(url)).open(host(url), FUNCTION)

    async def test_it_reads_what_was_put(self, source: Source) -> None:
        sent = {f"data {number} – ü ☃ 😀" for number in range(25)}
        for data in sent:
            source.put(data)
        before = time.time()
        got: list[Record] = []
        async with self.opened(source) as reader:
            while len(got) < 25:
                page = await receive(reader, 1)
                got += page
                await settle(reader, page)
        assert sorted(source.data(record) for record in got) == sorted(sent)
        assert len({record.item_id for record in got}) == 25
        for record in got:
            assert before - 60 < record.arrived_at < time.time() + 60
            assert before - 1 < record.received_at < time.time() + 1
            assert record.delivery_count == 1

    async def test_it_brings_no_more_than_asked_for(self, source: Source) -> None:
        for number in range(5):
            source.put(str(number), key=str(number))
        async with self.opened(source) as reader:
            assert 1 <= len(await reader.receive(2, 1.0)) <= 2

    async def test_an_empty_queue_answers_after_the_wait(self, source: Source) -> None:
        async with self.opened(source) as reader:
            assert list(await reader.receive(10, 0.0)) == []
            start = time.monotonic()
            assert list(await reader.receive(10, 1.0)) == []
            assert 0.9 <= time.monotonic() - start < 3

    async def test_a_record_that_comes_later_ends_the_wait(self, source: Source) -> None:
        async with self.opened(source) as reader, asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
            poll = group.create_task(reader.receive(10, 10.0))
            await asyncio.sleep(0)
            source.put("late")
            assert [source.data(record) for record in await poll] == ["late"]

    async def test_records_of_one_key_come_in_order_and_wait_for_each_other(self, source: Source) -> None:
        if not self.trigger.parse(source.options).capabilities.ordered_by_key:
            pytest.skip("the queue keeps no order")
        for number in range(6):
            for key in ("a", "b"):
                source.put(str(number), key)
        got = defaultdict(list)
        async with self.opened(source) as reader:
            (first,) = await receive(reader, 1)
            rest = await reader.receive(10, 0.0)
            assert first.ordering_key not in {record.ordering_key for record in rest}
            held = [first, *rest]
            while True:
                for record in held:
                    got[record.ordering_key].append(source.data(record))
                await settle(reader, held)
                if sum(len(numbers) for numbers in got.values()) == 12:
                    break
                held = await receive(reader, 1)
        assert dict(got) == {"a": list("012345"), "b": list("012345")}

    async def test_only_done_and_discarded_leave_the_queue(self, source: Source) -> None:
        gone = Discarded(Reason.RETRIES_EXHAUSTED, DestinationReceipt("a file"))
        fates: dict[str, Verdict] = {"done": Done(), "discarded": gone, "returned": Returned()}
        for data in fates:
            source.put(data, key=data)
        async with self.opened(source) as reader:
            records = await receive(reader, 3)
            verdicts = {record.item_id: fates[source.data(record)] for record in records}
            await reader.settle(resolve(Batch(tuple(records)), verdicts))
            (again,) = await receive(reader, 1)
            assert source.data(again) == "returned"
            await settle(reader, [again])
            assert list(await reader.receive(10, source.lease_s)) == []

    async def test_rejected_records_leave_the_queue(self, source: Source) -> None:
        if not self.trigger.parse(source.options).policy.rejects:
            pytest.skip("the queue cannot pass on what is rejected")
        for data in ("rejected", "done"):
            source.put(data, key=data)
        async with self.opened(source) as reader:
            for record in await receive(reader, 2):
                rejected = source.data(record) == "rejected"
                await settle(reader, [record], Rejected(Reason.TOO_LARGE) if rejected else Done())
            assert list(await reader.receive(10, source.lease_s)) == []
            assert await reader.backlog() in (0, None)

    async def test_more_records_are_settled_than_one_call_takes(self, source: Source) -> None:
        for number in range(35):
            source.put(str(number), key=str(number))
        async with self.opened(source) as reader:
            await settle(reader, await receive(reader, 35))
            assert list(await reader.receive(10, source.lease_s)) == []

    async def test_a_returned_record_comes_again_after_the_lease_and_is_counted(self, source: Source) -> None:
        source.put("x")
        async with self.opened(source) as reader:
            (first,) = await receive(reader, 1)
            await settle(reader, [first], Returned())
            (second,) = await receive(reader, 1)
            assert reader.lease_s is None or second.received_at - first.received_at >= reader.lease_s - 0.2
            assert source.data(second) == source.data(first)
            capabilities = self.trigger.parse(source.options).capabilities
            if capabilities.keeps_ids:
                assert second.item_id == first.item_id
            if capabilities.counts_deliveries:
                assert second.delivery_count > first.delivery_count

    async def test_extended_records_stay_hidden(self, source: Source) -> None:
        source.put("x")
        async with self.opened(source) as reader:
            if reader.lease_s is None:
                pytest.skip("records stay hidden until they are settled")
            records = await receive(reader, 1)
            for _ in range(int(source.lease_s) + 1):
                assert list(await reader.receive(1, 1.0)) == []
                await reader.extend(records)
            await settle(reader, records)

    async def test_extending_what_is_gone_is_passed_over(self, source: Source) -> None:
        source.put("gone", key="a")
        source.put("held", key="b")
        async with self.opened(source) as reader:
            records = await receive(reader, 2)
            await settle(reader, records[:1])
            await reader.extend(records)
            await settle(reader, records[1:])

    async def test_settling_twice_does_no_harm(self, source: Source) -> None:
        source.put("x")
        async with self.opened(source) as reader:
            records = await receive(reader, 1)
            await settle(reader, records)
            await settle(reader, records)

    async def test_the_backlog_is_about_what_waits(self, source: Source) -> None:
        async with self.opened(source) as reader:
            if await reader.backlog() is None:
                pytest.skip("the source does not say")
            for number in range(3):
                source.put(str(number))
            async with asyncio.timeout(WITHIN_S):  # some may be on their way to the reader
                while await reader.backlog() != 3:
                    await asyncio.sleep(0.01)

    async def test_a_broker_that_goes_away_is_unavailable_and_works_once_it_is_back(
        self, source: Source
    ) -> None:
        async with Relay(source.broker_url) as relay, self.opened(source, relay.url) as reader:
            async with asyncio.TaskGroup() as group:
                poll = group.create_task(self._fault(reader, 20.0))
                await relay.hears(source.poll_mark)
                await relay.cut()
                assert isinstance(await poll, SourceUnavailable)
            source.put("after")
            await relay.restore()
            records = await receive(reader, 1)
            assert source.data(records[0]) == "after"
            await settle(reader, records)

    async def test_a_broker_that_does_not_answer_at_the_start_is_unavailable(self, source: Source) -> None:
        relay = Relay(source.broker_url)
        async with relay:
            pass
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(SourceUnavailable):
                await self.reader(source, relay.url)

    async def test_closing_takes_no_second_with_a_poll_in_flight(self, source: Source) -> None:
        async with Relay(source.broker_url) as relay, asyncio.TaskGroup() as group:
            reader = await self.reader(source, relay.url)
            poll = group.create_task(reader.receive(10, 20.0))
            await relay.hears(source.poll_mark)
            start = time.monotonic()
            poll.cancel()
            await reader.aclose()
            await reader.aclose()
            assert time.monotonic() - start < CLOSED_WITHIN_S

    async def test_what_an_abandoned_poll_brings_goes_back_at_once(self, source: Source) -> None:
        async with Relay(source.broker_url) as relay, asyncio.TaskGroup() as group:
            reader = await self.reader(source, relay.url)
            poll = group.create_task(reader.receive(10, 20.0))
            await relay.hears(source.poll_mark)
            poll.cancel()
            await reader.aclose()
            source.put("x")
            async with self.opened(source) as other:
                start = time.monotonic()
                await settle(other, await receive(other, 1))
                assert time.monotonic() - start < source.lease_s

    async def test_a_closed_reader_leaves_no_thread_and_no_socket(self, source: Source) -> None:
        source.put("x")
        threads, sockets = set(threading.enumerate()), open_sockets()
        async with self.opened(source) as reader:
            await settle(reader, await receive(reader, 1))
            assert all(thread.daemon for thread in set(threading.enumerate()) - threads)
        await until(lambda: set(threading.enumerate()) <= threads and open_sockets() <= sockets)

    async def test_parse_refuses_each_bad_field_by_its_name(self, source: Source) -> None:
        for field, value in self.bad_options:
            with pytest.raises(InvalidConfiguration) as caught:
                self.trigger.parse({**source.options, field: value})
            assert field in {problem.field for problem in caught.value.problems}, (field, value)

    async def test_parse_says_every_problem_at_once(self, source: Source) -> None:
        bad = dict(self.bad_options)
        with pytest.raises(InvalidConfiguration) as caught:
            self.trigger.parse({**bad, **source.options})
        assert {problem.field for problem in caught.value.problems} == set(bad) - set(source.options)

    async def test_an_envelope_joins_the_records_own_bytes(self, source: Source) -> None:
        trigger = self.trigger.parse(source.options)
        source.put("one", key="a")
        source.put("two", key="b")
        async with self.opened(source) as reader:
            records = await receive(reader, 2)
            await settle(reader, records)
        envelope = trigger.envelope(records)
        assert envelope.count(records[0].event) == 1
        assert envelope.count(records[1].event) == 1

    @staticmethod
    async def _fault(reader: QueueReader, wait_s: float) -> Exception | None:
        try:
            await reader.receive(10, wait_s)
        except SourceUnavailable as unavailable:
            return unavailable
        return None
