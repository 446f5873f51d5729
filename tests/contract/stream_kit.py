"""What every stream trigger must do: a test module subclasses `StreamKit` and gives it a `Stream`."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, PartitionGone, Refused, SourceUnavailable
from millstream.contract.groups import GroupSource
from millstream.contract.records import Record
from millstream.contract.stream_trigger import StreamTrigger
from millstream.contract.streams import (
    After,
    At,
    Oldest,
    Partition,
    Start,
    StreamReader,
    StreamSource,
)
from tests.brokers.relay import Relay
from tests.contract.queue_kit import FUNCTION, open_sockets, until
from tests.contract.streams import WITHIN_S, ClockAhead, Stream, host, read, read_to_the_end, the_partition

CLOSED_WITHIN_S = 1.0


class StreamKit:
    """The suite; a subclass gives the class, a fixture `stream`, and options that must be refused."""

    trigger: type[StreamTrigger]
    bad_options: Sequence[tuple[str, object]]

    @pytest.fixture
    def stream(self) -> Stream:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(
        self, stream: Stream, url: str | None = None, clock: Clock | None = None
    ) -> AsyncIterator[StreamSource]:
        source = await self.source(stream, url or stream.broker_url, clock)
        try:
            yield source
        finally:
            await source.aclose()

    async def source(self, stream: Stream, url: str, clock: Clock | None = None) -> StreamSource:
        source = await self.trigger.parse(stream.options_at(url)).open(host(url, clock), FUNCTION)
        assert not isinstance(source, GroupSource)
        return source

    @asynccontextmanager
    async def reading(
        self, source: StreamSource, start: Start | None = None, partition: Partition | None = None
    ) -> AsyncIterator[StreamReader]:
        reader = await source.reader(partition or await the_partition(source), start or Oldest())
        try:
            yield reader
        finally:
            await reader.aclose()

    async def data(self, stream: Stream, start: Start, count: int) -> list[str]:
        """What a new source reads from `start` on."""
        async with self.opened(stream) as source, self.reading(source, start) as reader:
            return [stream.data(record) for record in await read(reader, count)]

    async def test_it_reads_what_was_put_in_the_order_of_each_key(self, stream: Stream) -> None:
        for number in range(12):
            for key in ("a", "ü ☃"):
                stream.put(f"{number} – ü ☃ 😀", key)
        before = time.time()
        async with self.opened(stream) as source, self.reading(source) as reader:
            partition = await the_partition(source)
            records = await read(reader, 24)
        got = defaultdict(list)
        for record in records:
            got[stream.key(record)].append(stream.data(record))
            assert record.partition == partition.id
            assert before - 60 < record.arrived_at < time.time() + 60
            assert before - 1 < record.received_at < time.time() + 1
        assert [len(data) for data in got.values()] == [12, 12]
        for data in got.values():
            assert data == [f"{number} – ü ☃ 😀" for number in range(12)]
        assert len({record.position for record in records}) == 24

    async def test_an_event_is_the_json_that_aws_documents(self, stream: Stream) -> None:
        stream.put('{"a": "ü"}', "key")
        async with self.opened(stream) as source, self.reading(source) as reader:
            (record,) = await read(reader, 1)
        event = msgspec.json.decode(record.event)
        expected = stream.event(record, '{"a": "ü"}', "key")
        assert event == expected
        assert list(event) == list(expected)

    async def test_it_brings_no_more_than_asked_for(self, stream: Stream) -> None:
        for number in range(5):
            stream.put(str(number))
        async with self.opened(stream) as source, self.reading(source) as reader:
            pages = [await read(reader, 2, limit=2), await read(reader, 3, limit=1)]
        assert [[stream.data(record) for record in page] for page in pages] == [["0", "1"], ["2", "3", "4"]]

    async def test_an_empty_partition_answers_after_the_wait(self, stream: Stream) -> None:
        async with self.opened(stream) as source, self.reading(source) as reader:
            page = await reader.read(10, 0.0)
            start = time.monotonic()
            page = await reader.read(10, 1.0)
            assert list(page.records) == []
            assert not page.ended
            assert 0.8 <= time.monotonic() - start < 3

    async def test_a_record_that_comes_later_ends_the_wait(self, stream: Stream) -> None:
        async with self.opened(stream) as source, self.reading(source) as reader:
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                poll = group.create_task(reader.read(10, WITHIN_S))
                await asyncio.sleep(0)
                stream.put("late")
            assert [stream.data(record) for record in poll.result().records] == ["late"]

    async def test_it_resumes_after_each_position_without_a_gap_or_a_repeat(self, stream: Stream) -> None:
        for number in range(4):
            stream.put(str(number))
        async with self.opened(stream) as source, self.reading(source) as reader:
            records = await read(reader, 4)
        stream.put("4")
        async with self.opened(stream) as source:
            for place, record in enumerate(records):
                async with self.reading(source, After(record.position)) as reader:
                    rest = await read(reader, 4 - place)
                    assert [stream.data(r) for r in rest] == [str(n) for n in range(place + 1, 5)]

    async def test_two_readers_do_not_disturb_each_other(self, stream: Stream) -> None:
        stream.put("x")
        assert await self.data(stream, Oldest(), 1) == ["x"]
        assert await self.data(stream, Oldest(), 1) == ["x"]

    async def test_from_a_mark_on_it_reads_what_was_put_since(self, stream: Stream) -> None:
        stream.put("before")
        old_at = time.time() + stream.mark_grain_s
        await until(lambda: time.time() > old_at)
        async with self.opened(stream) as source:
            start = At(await source.mark())
            stream.put("after")
            async with self.reading(source, start) as reader:
                assert [stream.data(record) for record in await read(reader, 1)] == ["after"]

    async def test_a_clock_that_is_ahead_misses_nothing_after_the_mark(self, stream: Stream) -> None:
        async with self.opened(stream, clock=ClockAhead()) as source:
            start = At(await source.mark())
            stream.put("after")
            async with self.reading(source, start) as reader:
                assert [stream.data(record) for record in await read(reader, 1)] == ["after"]

    async def test_from_a_time_on_it_reads_what_arrived_since(self, stream: Stream) -> None:
        if not stream.searches_by_time:
            pytest.skip("the source cannot search by time")
        for data in "abc":
            stream.put(data)
            put_at = time.time()
            await until(lambda put_at=put_at: time.time() > put_at + 0.01)  # type: ignore[misc]
        async with self.opened(stream) as source:
            async with self.reading(source) as reader:
                records = await read(reader, 3)
            async with self.reading(source, At(records[1].arrived_at)) as reader:
                assert [stream.data(record) for record in await read(reader, 2)] == ["b", "c"]

    async def test_a_partition_that_takes_no_more_ends_after_its_records(self, stream: Stream) -> None:
        for number in range(3):
            stream.put(str(number), str(number))
        async with self.opened(stream) as source:
            parent = await the_partition(source)
            if not stream.reshard():
                pytest.skip("the broker cannot reshard")
            async with self.reading(source, partition=parent) as reader:
                records = await read_to_the_end(reader)
                assert sorted(stream.data(record) for record in records) == ["0", "1", "2"]
                assert (await reader.read(10, 0.0)).ended
            async with self.reading(source, After(records[-1].position), parent) as reader:
                assert await read_to_the_end(reader) == []
            found = {partition.id: partition for partition in await source.partitions()}
            assert found[parent.id].closed
            children = [partition for partition in found.values() if parent.id in partition.parents]
            assert children
            assert not any(child.closed for child in children)

    async def test_what_is_put_after_a_reshard_is_read_from_the_children(self, stream: Stream) -> None:
        async with self.opened(stream) as source:
            parent = await the_partition(source)
            if not stream.reshard():
                pytest.skip("the broker cannot reshard")
            sent = {str(number) for number in range(8)}
            for data in sent:
                stream.put(data, key=data)
            got: set[str] = set()
            for child in await source.partitions():
                if parent.id in child.parents:
                    async with self.reading(source, partition=child) as reader:
                        while records := (await reader.read(100, 1.5)).records:
                            got |= {stream.data(record) for record in records}
            assert got == sent

    async def test_a_lost_position_resumes_at_the_oldest_record(self, stream: Stream) -> None:
        if stream.lost_position is None:
            pytest.skip("the broker refuses no position")
        stream.put("oldest")
        assert await self.data(stream, After(stream.lost_position), 1) == ["oldest"]

    async def test_a_partition_that_is_not_there_is_gone(self, stream: Stream) -> None:
        async with self.opened(stream) as source:
            known = await the_partition(source)
            gone = Partition(known.id[:-1] + ("8" if known.id[-1] != "8" else "7"))
            with pytest.raises(PartitionGone):
                async with self.reading(source, partition=gone) as reader:
                    await read(reader, 1)

    async def test_a_broker_that_goes_away_is_unavailable_and_read_on_once_it_is_back(
        self, stream: Stream
    ) -> None:
        for number in range(4):
            stream.put(str(number))
        async with (
            Relay(stream.broker_url) as relay,
            self.opened(stream, relay.url) as source,
            self.reading(source) as reader,
        ):
            records = await read(reader, 2, limit=2)
            await relay.cut()
            stream.put("4")
            with pytest.raises(SourceUnavailable):
                while len(records) < 5:
                    records += (await reader.read(1, 1.0)).records
            await relay.restore()
            while len(records) < 5:
                records += await self._through_faults(reader, 5 - len(records))
        assert [stream.data(record) for record in records] == list("01234")

    async def _through_faults(self, reader: StreamReader, count: int) -> Sequence[Record]:
        try:
            return (await reader.read(count, 5.0)).records
        except SourceUnavailable:
            return ()

    async def test_a_broker_that_does_not_answer_at_the_start_is_unavailable(self, stream: Stream) -> None:
        relay = Relay(stream.broker_url)
        async with relay:
            pass
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(SourceUnavailable):
                await self.source(stream, relay.url)

    async def test_a_stream_that_is_not_there_is_named(self, stream: Stream) -> None:
        with pytest.raises(Refused, match=stream.missing_name):
            await self.trigger.parse(stream.missing).open(host(stream.broker_url), FUNCTION)

    async def test_a_cancelled_read_loses_nothing(self, stream: Stream) -> None:
        async with (
            Relay(stream.broker_url) as relay,
            self.opened(stream, relay.url) as source,
            self.reading(source) as reader,
        ):
            async with asyncio.TaskGroup() as group:
                poll = group.create_task(reader.read(10, WITHIN_S))
                await relay.hears(stream.poll_mark)
                stream.put("x")
                poll.cancel()
            assert [stream.data(record) for record in await read(reader, 1)] == ["x"]

    async def test_closing_takes_no_second_with_a_read_in_flight(self, stream: Stream) -> None:
        threads = set(threading.enumerate())
        async with Relay(stream.broker_url) as relay, asyncio.TaskGroup() as group:
            source = await self.source(stream, relay.url)
            reader = await source.reader(await the_partition(source), Oldest())
            poll = group.create_task(reader.read(10, WITHIN_S))
            await relay.hears(stream.poll_mark)
            start = time.monotonic()
            poll.cancel()
            await reader.aclose()
            await reader.aclose()
            await source.aclose()
            await source.aclose()
            await until(lambda: set(threading.enumerate()) <= threads)
            assert time.monotonic() - start < CLOSED_WITHIN_S

    async def test_a_closed_source_leaves_no_task_no_thread_and_no_socket(self, stream: Stream) -> None:
        stream.put("x")
        threads, sockets, tasks = set(threading.enumerate()), open_sockets(), asyncio.all_tasks()
        async with self.opened(stream) as source, self.reading(source) as reader:
            await source.mark()
            await read(reader, 1)
            assert all(thread.daemon for thread in set(threading.enumerate()) - threads)
        assert asyncio.all_tasks() <= tasks
        await until(lambda: set(threading.enumerate()) <= threads and open_sockets() <= sockets)

    async def test_an_open_that_fails_leaves_no_thread_and_no_socket(self, stream: Stream) -> None:
        threads, sockets = set(threading.enumerate()), open_sockets()
        with pytest.raises(Refused):
            await self.trigger.parse(stream.missing).open(host(stream.broker_url), FUNCTION)
        # The error's traceback, which is a cycle, refers to the connection.
        await until(lambda: gc.collect() >= 0 and open_sockets() <= sockets)
        await until(lambda: set(threading.enumerate()) <= threads)

    async def test_an_envelope_joins_the_records_own_bytes(self, stream: Stream) -> None:
        stream.put("one")
        stream.put("two")
        async with self.opened(stream) as source, self.reading(source) as reader:
            records = await read(reader, 2)
        envelope = self.trigger.parse(stream.options).envelope(records)
        events = [msgspec.json.decode(record.event) for record in records]
        assert stream.events(msgspec.json.decode(envelope)) == events
        assert all(envelope.count(record.event) == 1 for record in records)

    async def test_parse_refuses_each_bad_field_by_its_name(self, stream: Stream) -> None:
        for field, value in self.bad_options:
            with pytest.raises(InvalidConfiguration) as caught:
                self.trigger.parse({**stream.options, field: value})
            assert field in {problem.field for problem in caught.value.problems}, (field, value)

    async def test_parse_says_every_problem_at_once(self, stream: Stream) -> None:
        bad = {field: value for field, value in self.bad_options if field not in stream.options}
        with pytest.raises(InvalidConfiguration) as caught:
            self.trigger.parse({**stream.options, **bad})
        assert {problem.field for problem in caught.value.problems} == set(bad)
