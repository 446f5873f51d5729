"""Reading a shard of a DynamoDB stream: its pace, and what runs out, is refused or goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from millstream.contract.clock import Clock, SystemClock
from millstream.contract.errors import PartitionGone, Refused, SourceUnavailable
from millstream.contract.records import Position, Record
from millstream.contract.streams import After, Oldest, Partition, Start, StreamReader
from millstream.triggers.dynamodb import DynamoDbTrigger
from millstream.triggers.dynamodb_source import DynamoDbSource
from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.dynamodb_streams import FakeStream
from tests.contract.queue_kit import FUNCTION, until
from tests.contract.streams import host, read, read_to_the_end

TRIMMED = "position not in the stream any more: from the oldest record"


class LeapingClock(SystemClock):
    """Sleeps by moving ahead at once, and tells for how long."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self._ahead_s  # calls take no time

    async def sleep(self, for_s: float) -> None:
        await asyncio.sleep(0)
        if for_s > 0:
            self._ahead_s += for_s
            self.slept.append(for_s)


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let botocore make each request once, so that every fault is seen."""
    monkeypatch.setattr("millstream.aws.clients.MAX_ATTEMPTS", 1)


@pytest.fixture
def stream(dynamodb_fake: DynamoDbFake) -> FakeStream:
    return dynamodb_fake.stream("orders")


@pytest.fixture
def shard(stream: FakeStream) -> str:
    (shard,) = stream.shards
    return shard


@asynccontextmanager
async def opened(fake: DynamoDbFake, stream: FakeStream, clock: Clock) -> AsyncIterator[DynamoDbSource]:
    trigger = DynamoDbTrigger.parse({"stream": stream.arn, "starting_position": "TRIM_HORIZON"})
    source = await trigger.open(host(fake.url, clock), FUNCTION)
    try:
        yield source
    finally:
        await source.aclose()


@asynccontextmanager
async def reading(
    fake: DynamoDbFake, stream: FakeStream, start: Start | None = None, clock: Clock | None = None
) -> AsyncIterator[StreamReader]:
    """A reader of the stream's first shard, on a clock that does not wait."""
    async with opened(fake, stream, clock or LeapingClock()) as source:
        reader = await source.reader((await source.partitions())[0], start or Oldest())
        yield reader
        await reader.aclose()


def put(stream: FakeStream, *numbers: int, shard: str | None = None) -> list[str]:
    """Inserts of items that are numbered; their sequence numbers."""
    return [stream.put({"pk": {"N": str(number)}}, shard=shard) for number in numbers]


def ids(records: Sequence[Record]) -> list[str]:
    return [record.item_id for record in records]


async def test_a_shard_with_records_is_read_four_times_a_second_and_an_idle_one_once(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    put(stream, 1)
    clock = LeapingClock()
    async with reading(dynamodb_fake, stream, clock=clock) as reader:
        assert len((await reader.read(10, 5.0)).records) == 1
        assert list((await reader.read(10, 5.0)).records) == []
    assert clock.slept == [0.25] * 8 + [1.0, 1.0, 1.0]
    assert dynamodb_fake.count("GetRecords") == 12


async def test_an_idle_shard_is_asked_once_a_second_however_often_it_is_read(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    clock = LeapingClock()
    async with reading(dynamodb_fake, stream, clock=clock) as reader:
        for _ in range(20):
            page = await reader.read(10, 0.1)
            assert (list(page.records), page.lag_s) == ([], 0.0)
    assert dynamodb_fake.count("GetRecords") == 1 + int(sum(clock.slept))


async def test_a_closed_shard_is_read_at_full_pace_through_empty_pages(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str
) -> None:
    sent = put(stream, 1, 2)
    stream.shards[shard].empty_pages = 20
    stream.close(shard)
    clock = LeapingClock()
    async with reading(dynamodb_fake, stream, clock=clock) as reader:
        assert ids(await read_to_the_end(reader)) == sent
    assert clock.slept == [0.25] * 20


async def test_an_empty_page_of_a_closed_shard_does_not_say_that_all_is_read(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str
) -> None:
    put(stream, 1)
    stream.shards[shard].empty_pages = 20
    stream.close(shard)
    async with reading(dynamodb_fake, stream) as reader:
        page = await reader.read(10, 1.0)
        assert (list(page.records), page.lag_s) == ([], None)


async def test_no_call_asks_for_more_than_a_thousand_records(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    sent = put(stream, *range(1500))
    async with reading(dynamodb_fake, stream) as reader:
        pages = [await reader.read(10_000, 1.0), await reader.read(10_000, 1.0)]
    assert [len(page.records) for page in pages] == [1000, 500]
    assert ids([record for page in pages for record in page.records]) == sent
    assert {asked["Limit"] for asked in dynamodb_fake.asked("GetRecords")} == {1000}


async def test_the_end_of_a_shard_comes_with_its_last_records(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str
) -> None:
    sent = put(stream, 1, 2)
    stream.close(shard)
    async with reading(dynamodb_fake, stream) as reader:
        page = await reader.read(10, 1.0)
        assert (ids(page.records), page.ended) == (sent, True)
        asked = dynamodb_fake.count("GetRecords")
        page = await reader.read(10, 1.0)
        assert (list(page.records), page.ended) == ([], True)
        assert dynamodb_fake.count("GetRecords") == asked


async def test_a_shard_that_closes_while_it_is_read_ends_after_its_records(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str
) -> None:
    async with reading(dynamodb_fake, stream) as reader:
        assert not (await reader.read(10, 1.0)).ended
        sent = put(stream, 1)
        stream.split(shard)
        assert ids(await read_to_the_end(reader)) == sent


async def test_an_expired_iterator_is_renewed_behind_the_last_record_returned(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    sent = put(stream, *range(6))
    async with reading(dynamodb_fake, stream) as reader:
        records = await read(reader, 3)
        dynamodb_fake.expire_iterators()
        records += await read(reader, 3)
    assert ids(records) == sent


async def test_an_iterator_that_expires_before_any_record_is_renewed_from_where_it_began(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    async with reading(dynamodb_fake, stream) as reader:
        assert list((await reader.read(10, 0.0)).records) == []
        sent = put(stream, 1)
        dynamodb_fake.expire_iterators()
        assert ids(await read(reader, 1)) == sent


async def test_a_cursor_that_was_trimmed_resumes_at_the_oldest_record_with_one_warning(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent = put(stream, *range(6))
    stream.trim(shard, 3)
    async with reading(dynamodb_fake, stream, After(Position(sent[1]))) as reader:
        assert ids(await read(reader, 3)) == sent[3:]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [TRIMMED]


async def test_records_trimmed_before_they_are_read_are_passed_over_with_one_warning(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent = put(stream, *range(6))
    async with reading(dynamodb_fake, stream) as reader:
        assert ids(await read(reader, 1)) == sent[:1]
        stream.trim(shard, 4)
        assert ids(await read(reader, 2)) == sent[4:]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [TRIMMED]


@pytest.mark.parametrize("operation", ["GetRecords", "GetShardIterator"])
@pytest.mark.parametrize(
    "code", ["ThrottlingException", "LimitExceededException", "ProvisionedThroughputExceededException"]
)
async def test_a_throttled_shard_is_unavailable_and_then_read_on(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, operation: str, code: str
) -> None:
    sent = put(stream, 1)
    async with reading(dynamodb_fake, stream) as reader:
        dynamodb_fake.throttle(operation, 2, code)
        for _ in range(2):
            with pytest.raises(SourceUnavailable, match=code):
                await reader.read(10, 1.0)
        assert ids(await read(reader, 1)) == sent


async def test_a_shard_that_fails_is_asked_again_a_second_later_at_the_soonest(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    put(stream, 1)
    clock = LeapingClock()
    async with reading(dynamodb_fake, stream, clock=clock) as reader:
        dynamodb_fake.throttle("GetRecords", 1)
        with pytest.raises(SourceUnavailable):
            await reader.read(10, 1.0)
        assert len((await reader.read(10, 1.0)).records) == 1
    assert clock.slept == [1.0]


async def test_faults_of_the_service_and_dropped_connections_lose_nothing(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    sent = put(stream, *range(4))
    async with reading(dynamodb_fake, stream) as reader:
        records = await read(reader, 1, limit=1)
        dynamodb_fake.fail("GetRecords", "InternalServerError", status=500)
        dynamodb_fake.drop("GetRecords")
        for _ in range(2):
            with pytest.raises(SourceUnavailable):
                await reader.read(1, 1.0)
        records += await read(reader, 3, limit=1)
    assert ids(records) == sent


async def test_a_refused_iterator_is_renewed(dynamodb_fake: DynamoDbFake, stream: FakeStream) -> None:
    sent = put(stream, *range(4))
    async with reading(dynamodb_fake, stream) as reader:
        records = await read(reader, 2, limit=2)
        dynamodb_fake.fail("GetRecords", "ValidationException")
        records += await read(reader, 2)
    assert ids(records) == sent


async def test_a_shard_that_vanishes_is_gone(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str
) -> None:
    async with reading(dynamodb_fake, stream) as reader:
        await reader.read(10, 0.0)
        stream.split(shard)
        stream.vanish(shard)
        with pytest.raises(PartitionGone, match=shard):
            await reader.read(10, 1.0)


async def test_a_shard_that_is_listed_but_not_found_is_unavailable(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    sent = put(stream, 1)
    async with reading(dynamodb_fake, stream) as reader:
        dynamodb_fake.fail("GetShardIterator", "ResourceNotFoundException")
        with pytest.raises(SourceUnavailable, match="listed, but not found"):
            await reader.read(10, 1.0)
        assert ids(await read(reader, 1)) == sent


async def test_a_stream_deleted_while_it_is_read_is_refused(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    async with reading(dynamodb_fake, stream) as reader:
        await reader.read(10, 0.0)
        stream.delete()
        with pytest.raises(Refused, match=f"^no stream '{stream.arn}'$"):
            await reader.read(10, 1.0)


async def test_a_stream_that_refuses_us_is_refused(dynamodb_fake: DynamoDbFake, stream: FakeStream) -> None:
    async with reading(dynamodb_fake, stream) as reader:
        dynamodb_fake.fail("GetRecords", "AccessDeniedException")
        with pytest.raises(Refused, match="AccessDeniedException"):
            await reader.read(10, 1.0)


async def test_what_is_before_a_record_that_spoils_its_page_is_read_and_nothing_behind_it(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent = put(stream, *range(9))
    change = stream.shards[shard].records[5]["dynamodb"]
    change["SequenceNumber"] = 7
    async with reading(dynamodb_fake, stream) as reader:
        assert ids(await read(reader, 5)) == sent[:5]
        for _ in range(3):
            with pytest.raises(SourceUnavailable, match="without a sequence number"):
                await reader.read(1000, 20.0)
        change["SequenceNumber"] = sent[5]
        assert ids(await read(reader, 4)) == sent[5:]
    told = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert told == ["record that makes its page unreadable, asked for again"]


async def test_an_answer_without_records_is_no_end_of_the_shard(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = put(stream, 1)
    async with reading(dynamodb_fake, stream) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(dynamodb_fake, "_get_records", lambda body: {})
            with pytest.raises(SourceUnavailable):
                await reader.read(10, 20.0)
        assert ids(await read(reader, 1)) == sent


async def test_what_a_cancelled_read_brings_is_brought_by_the_next(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    sent = put(stream, *range(4))
    async with reading(dynamodb_fake, stream) as reader:
        records = await read(reader, 2, limit=2)
        asked = dynamodb_fake.count("GetRecords")
        answer = dynamodb_fake.hold("GetRecords")
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(reader.read(2, 1.0))
            await until(lambda: dynamodb_fake.count("GetRecords") == asked + 1)
            poll.cancel()
        answer()
        records += await read(reader, 2)
    assert ids(records) == sent


async def test_a_slow_shard_does_not_hold_up_another(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, shard: str
) -> None:
    other = stream.add_shard()
    sent = put(stream, 1, shard=other)
    answer = dynamodb_fake.hold("GetRecords")
    async with opened(dynamodb_fake, stream, SystemClock()) as source, asyncio.TaskGroup() as group:
        slow = group.create_task((await source.reader(Partition(shard), Oldest())).read(10, 0.0))
        await until(lambda: dynamodb_fake.count("GetRecords") == 1)
        dynamodb_fake.hold("GetRecords")()
        assert ids(await read(await source.reader(Partition(other), Oldest()), 1)) == sent
        assert not slow.done()
        answer()
