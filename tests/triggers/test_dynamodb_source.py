"""DynamoDB streams: how one is found, the lineage of its shards, and LATEST over restarts."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.streams import At, Latest, Oldest, Partition, Start
from millstream.triggers.dynamodb import DynamoDbTrigger
from millstream.triggers.dynamodb_source import DynamoDbSource
from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.dynamodb_streams import FakeStream
from tests.contract.queue_kit import FUNCTION
from tests.contract.streams import host, read, read_to_the_end

TABLE_ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/orders"
STREAM_ARN = f"{TABLE_ARN}/stream/2026-01-01T00:00:00.000"
STREAM = "a stream's ARN, or a table's name or ARN"
NOW = 1760000000.0


def trigger(stream: str, position: str = "TRIM_HORIZON") -> DynamoDbTrigger:
    return DynamoDbTrigger.parse({"stream": stream, "starting_position": position})


@asynccontextmanager
async def opened(fake: DynamoDbFake, stream: str) -> AsyncIterator[DynamoDbSource]:
    source = await trigger(stream).open(host(fake.url), FUNCTION)
    try:
        yield source
    finally:
        await source.aclose()


@pytest.fixture
def stream(dynamodb_fake: DynamoDbFake) -> FakeStream:
    return dynamodb_fake.stream("orders")


def put(stream: FakeStream, *numbers: int, shard: str, created_at: float | None = None) -> list[str]:
    """Inserts of items that are numbered; their sequence numbers."""
    return [stream.put({"pk": {"N": str(n)}}, shard=shard, created_at=created_at) for n in numbers]


async def from_start(source: DynamoDbSource, shard: str, start: Start, count: int) -> list[str]:
    """Sequence numbers of the first records of a shard."""
    reader = await source.reader(Partition(shard), start)
    records = await read(reader, count)
    await reader.aclose()
    return [record.item_id for record in records]


async def all_from(source: DynamoDbSource, shard: str, start: Start) -> list[str]:
    """Sequence numbers of what a closed shard has."""
    reader = await source.reader(Partition(shard, closed=True), start)
    records = await read_to_the_end(reader)
    await reader.aclose()
    return [record.item_id for record in records]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"starting_position": "LATEST"}, f"stream: wanted {STREAM}, found nothing"),
        (
            {"stream": "arn:aws:kinesis:us-east-1:000000000000:stream/s", "starting_position": "LATEST"},
            f"stream: wanted {STREAM}, found 'arn:aws:kinesis",
        ),
        (
            {"stream": "orders"},
            'starting_position: wanted "TRIM_HORIZON" or "LATEST" '
            "(DynamoDB Streams cannot be read from a time on), found nothing",
        ),
        (
            {"stream": "orders", "starting_position": "AT_TIMESTAMP"},
            'starting_position: wanted "TRIM_HORIZON" or "LATEST" '
            "(DynamoDB Streams cannot be read from a time on), found 'AT_TIMESTAMP'",
        ),
    ],
)
def test_a_wrong_option_is_said_in_one_line(options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"^{re.escape(says)}") as caught:
        DynamoDbTrigger.parse(options)
    assert len(caught.value.problems) == 1


def test_the_starting_position_is_as_declared() -> None:
    assert trigger("orders").starting_position == Oldest()
    assert trigger("orders", "LATEST").starting_position == Latest()


def test_records_of_an_item_are_ordered() -> None:
    assert trigger("orders").capabilities.ordered_by_key


@pytest.mark.parametrize("declared", ["orders", TABLE_ARN, "the stream's ARN"])
async def test_a_stream_is_found_by_its_arn_or_by_its_tables_name_or_arn(
    dynamodb_fake: DynamoDbFake, declared: str
) -> None:
    dynamodb_fake.stream("orders")
    latest = dynamodb_fake.stream("orders").arn
    async with opened(dynamodb_fake, latest if declared == "the stream's ARN" else declared) as source:
        assert source.event_source_arn == latest


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ("plain", "table 'plain' has no stream: it is to be enabled"),
        ("missing", "no table 'missing'"),
        (STREAM_ARN, f"no stream '{STREAM_ARN}'"),
    ],
)
async def test_a_stream_that_is_not_there_is_said_in_one_line(
    dynamodb_fake: DynamoDbFake, declared: str, says: str
) -> None:
    dynamodb_fake.table("plain")
    with pytest.raises(Refused) as caught:
        await trigger(declared).open(host(dynamodb_fake.url), FUNCTION)
    assert str(caught.value) == says


async def test_an_endpoint_that_is_no_url_is_a_wrong_configuration() -> None:
    with pytest.raises(InvalidConfiguration, match=r"^endpoint_url: wanted a URL"):
        await trigger("orders").open(host("not a url"), FUNCTION)


async def test_settings_that_reach_no_aws_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(Refused, match="no-such-profile"):
        await trigger("orders").open(host("http://127.0.0.1:1"), FUNCTION)


async def test_shards_of_all_pages_have_their_parents_and_tell_whether_they_are_closed(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    dynamodb_fake.page_of_shards = 2
    (root,) = stream.shards
    left, right = stream.split(root)
    (heir,) = stream.split(left, children=1)
    async with opened(dynamodb_fake, "orders") as source:
        found: Sequence[Partition] = await source.partitions()
    assert list(found) == [
        Partition(root, closed=True),
        Partition(left, frozenset({root}), closed=True),
        Partition(right, frozenset({root})),
        Partition(heir, frozenset({left})),
    ]


async def test_a_list_of_shards_that_breaks_off_is_unavailable(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.aws.clients.MAX_ATTEMPTS", 1)
    stream.add_shard()
    async with opened(dynamodb_fake, "orders") as source:
        dynamodb_fake.fail("DescribeStream", "InternalServerError", status=500)
        with pytest.raises(SourceUnavailable, match="InternalServerError"):
            await source.partitions()
        assert len(await source.partitions()) == 2


async def test_a_deleted_stream_is_refused(dynamodb_fake: DynamoDbFake, stream: FakeStream) -> None:
    async with opened(dynamodb_fake, "orders") as source:
        stream.delete()
        with pytest.raises(Refused, match=r"^no stream"):
            await source.partitions()
        with pytest.raises(Refused, match=r"^no stream"):
            await source.mark()


async def test_a_disabled_stream_is_read_to_its_end_with_one_warning(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, caplog: pytest.LogCaptureFixture
) -> None:
    (shard,) = stream.shards
    sent = put(stream, 1, 2, shard=shard)
    stream.disable()
    async with opened(dynamodb_fake, "orders") as source:
        for _ in range(3):
            (partition,) = await source.partitions()
        assert partition.closed
        assert await all_from(source, shard, Oldest()) == sent
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["stream is disabled: it is read to its end, and brings nothing new"]


async def test_latest_begins_in_every_open_shard_with_the_first_record_after_the_mark(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    shards = [*stream.shards, stream.add_shard()]
    for shard in shards:
        put(stream, 1, 2, shard=shard)
    async with opened(dynamodb_fake, "orders") as source:
        start = At(await source.mark())
        for shard in shards:
            sent = put(stream, 3, 4, shard=shard)
            assert await from_start(source, shard, start, 2) == sent


async def test_after_a_restart_latest_passes_over_what_is_older_than_the_second_of_the_mark(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    (shard,) = stream.shards
    put(stream, *range(1200), shard=shard, created_at=NOW - 1)
    sent = put(stream, 1, shard=shard, created_at=NOW) + put(stream, 2, shard=shard, created_at=NOW + 1)
    async with opened(dynamodb_fake, "orders") as source:
        assert await from_start(source, shard, At(NOW + 0.9), 2) == sent


async def test_a_mark_that_another_daemon_made_is_not_read_from_our_own(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    (shard,) = stream.shards
    put(stream, 1, shard=shard, created_at=NOW - 1)
    sent = put(stream, 2, shard=shard, created_at=NOW + 1)
    async with opened(dynamodb_fake, "orders") as source:
        await source.mark()
        assert await from_start(source, shard, At(NOW), 1) == sent


async def test_a_mark_whose_iterators_have_expired_still_misses_nothing(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    (shard,) = stream.shards
    put(stream, 1, shard=shard, created_at=NOW)
    async with opened(dynamodb_fake, "orders") as source:
        start = At(await source.mark())
        reader = await source.reader(Partition(shard), start)
        assert list((await reader.read(10, 0.0)).records) == []
        sent = put(stream, 2, 3, shard=shard)
        dynamodb_fake.expire_iterators()
        assert [record.item_id for record in await read(reader, 2)] == sent
        assert await from_start(source, shard, start, 2) == sent


async def test_a_record_stamped_before_the_one_where_reading_began_is_not_passed_over(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    (shard,) = stream.shards
    sent = put(stream, 1, shard=shard, created_at=NOW + 1)
    sent += put(stream, 2, 3, shard=shard, created_at=NOW - 1)
    async with opened(dynamodb_fake, "orders") as source:
        reader = await source.reader(Partition(shard), At(NOW))
        records = [*await read(reader, 2), *await read(reader, 1)]
    assert [record.item_id for record in records] == sent


async def test_latest_reads_shards_that_came_after_the_mark_from_their_beginning(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    (shard,) = stream.shards
    put(stream, 1, shard=shard, created_at=NOW)
    async with opened(dynamodb_fake, "orders") as source:
        start = At(await source.mark())
        before = put(stream, 2, shard=shard)
        left, right = stream.split(shard)
        after = put(stream, 3, shard=left), put(stream, 4, shard=right)
        assert await all_from(source, shard, start) == before
        assert await from_start(source, left, start, 1) == after[0]
        assert await from_start(source, right, start, 1) == after[1]


async def test_a_shard_closed_before_the_mark_has_nothing_for_latest(
    dynamodb_fake: DynamoDbFake, stream: FakeStream
) -> None:
    (shard,) = stream.shards
    put(stream, 1, 2, shard=shard, created_at=NOW)
    stream.split(shard)
    async with opened(dynamodb_fake, "orders") as source:
        start = At(await source.mark())
        assert shard not in {asked["ShardId"] for asked in dynamodb_fake.asked("GetShardIterator")}
        assert await all_from(source, shard, start) == []


@pytest.mark.parametrize(("ahead_s", "at_s"), [(-3600.0, -3600.0), (3600.0, 0.0)])
async def test_a_mark_is_by_the_clock_that_is_behind(
    dynamodb_fake: DynamoDbFake, stream: FakeStream, ahead_s: float, at_s: float
) -> None:
    dynamodb_fake.ahead_s = ahead_s
    async with opened(dynamodb_fake, "orders") as source:
        assert await source.mark() == pytest.approx(time.time() + at_s, abs=5)
