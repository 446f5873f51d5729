"""A table's streams, one after the other: nothing of an earlier one is lost, and no order either."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from millstream.contract.errors import Refused
from millstream.contract.streams import Oldest, Partition
from millstream.triggers.dynamodb import DynamoDbTrigger
from millstream.triggers.dynamodb_lineage import identity, partitions, tells_by_itself
from millstream.triggers.dynamodb_source import DynamoDbSource
from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.contract.queue_kit import FUNCTION
from tests.contract.streams import host, read_to_the_end

NEW_STREAM = "table has a new stream: it is read after the one before"
SHARD = "shardId-00000001760000000000-{:08x}"


@asynccontextmanager
async def opened(fake: DynamoDbFake, stream: str = "orders") -> AsyncIterator[DynamoDbSource]:
    trigger = DynamoDbTrigger.parse({"stream": stream, "starting_position": "TRIM_HORIZON"})
    source = await trigger.open(host(fake.url), FUNCTION)
    try:
        yield source
    finally:
        await source.aclose()


async def all_of(source: DynamoDbSource, partition: Partition) -> list[tuple[str, str]]:
    """Position and stream of each record of a shard that is closed."""
    reader = await source.reader(partition, Oldest())
    records = await read_to_the_end(reader)
    await reader.aclose()
    details = DynamoDbTrigger.parse({"stream": "orders", "starting_position": "LATEST"}).failure_details
    return [(record.position, details([record])["DDBStreamBatchInfo"]["streamArn"]) for record in records]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_stream_enabled_again_is_found_and_read_after_the_rest_of_the_one_before(
    dynamodb_fake: DynamoDbFake, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first = dynamodb_fake.stream("orders")
    (old,) = first.shards
    async with opened(dynamodb_fake) as source:
        assert [partition.id for partition in await source.partitions()] == [old]
        before = first.put({"pk": {"N": "1"}})
        first.disable()
        second = dynamodb_fake.stream("orders")
        (new,) = second.shards
        after = second.put({"pk": {"N": "1"}})
        second.disable()
        if not restarted:
            found = await source.partitions()
            assert source.event_source_arn == second.arn
            assert source.identity is None
            assert await all_of(source, found[0]) == [(before, first.arn)]
    async with opened(dynamodb_fake) as source:
        found = await source.partitions()
        assert list(found) == [
            Partition(old, closed=True),
            Partition(new, frozenset({old}), closed=True),
        ]
        assert await all_of(source, found[0]) == [(before, first.arn)]
        assert await all_of(source, found[1]) == [(after, second.arn)]
    warned = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert warned.count(NEW_STREAM) == (0 if restarted else 1)


async def test_a_stream_that_has_been_gone_for_a_day_leaves_the_next_one_without_parents(
    dynamodb_fake: DynamoDbFake,
) -> None:
    first = dynamodb_fake.stream("orders")
    async with opened(dynamodb_fake) as source:
        second = dynamodb_fake.stream("orders")
        assert len(await source.partitions()) == 2
        del dynamodb_fake.streams[first.arn]
        assert list(await source.partitions()) == [Partition(next(iter(second.shards)))]


async def test_a_mapping_on_a_streams_arn_stays_with_that_stream(dynamodb_fake: DynamoDbFake) -> None:
    first = dynamodb_fake.stream("orders")
    async with opened(dynamodb_fake, first.arn) as source:
        dynamodb_fake.stream("orders")
        assert [partition.id for partition in await source.partitions()] == list(first.shards)


async def test_what_a_deleted_table_leaves_is_read_until_its_stream_is_gone(
    dynamodb_fake: DynamoDbFake,
) -> None:
    stream = dynamodb_fake.stream("orders")
    async with opened(dynamodb_fake) as source:
        sent = stream.put({"pk": {"N": "1"}})
        stream.disable()
        del dynamodb_fake.tables["orders"]
        (left,) = await source.partitions()
        assert await all_of(source, left) == [(sent, stream.arn)]
        del dynamodb_fake.streams[stream.arn]
        with pytest.raises(Refused, match=r"^no stream"):
            await source.partitions()


async def test_a_table_whose_streams_cannot_be_listed_is_read_from_its_latest(
    dynamodb_fake: DynamoDbFake, caplog: pytest.LogCaptureFixture
) -> None:
    dynamodb_fake.stream("orders")
    second = dynamodb_fake.stream("orders")
    dynamodb_fake.fail("ListStreams", "AccessDeniedException")
    async with opened(dynamodb_fake) as source:
        assert [partition.id for partition in await source.partitions()] == list(second.shards)
    assert "earlier streams of a table cannot be listed" in [line.getMessage() for line in caplog.records]


@pytest.mark.parametrize("code", ["AccessDeniedException", "ExpiredTokenException"])
async def test_an_earlier_stream_that_refuses_for_a_while_is_not_passed_over(
    dynamodb_fake: DynamoDbFake, code: str
) -> None:
    first = dynamodb_fake.stream("orders")
    (old,) = first.shards
    async with opened(dynamodb_fake) as source:
        sent = first.put({"pk": {"N": "1"}})
        first.disable()
        dynamodb_fake.stream("orders")
        assert len(await source.partitions()) == 2
        dynamodb_fake.fail("DescribeStream", code)  # of the first stream, which is asked for first
        with pytest.raises(Refused, match=code):
            await source.partitions()
        found = await source.partitions()
        assert [partition.id for partition in found][:1] == [old]
        assert await all_of(source, found[0]) == [(sent, first.arn)]


async def test_a_list_of_shards_costs_one_call_beside_its_own(dynamodb_fake: DynamoDbFake) -> None:
    dynamodb_fake.stream("orders")
    async with opened(dynamodb_fake) as source:
        dynamodb_fake.requests.clear()
        await source.partitions()
    assert [operation for operation, _ in dynamodb_fake.requests] == ["DescribeTable", "DescribeStream"]


def described(arn: str, **shards: str | None) -> dict[str, object]:
    """A stream with shards and their parents."""
    found = [
        {"ShardId": shard, **({"ParentShardId": parent} if parent else {})}
        for shard, parent in shards.items()
    ]
    return {"StreamArn": arn, "Shards": found}


def test_the_first_shards_of_a_stream_are_children_of_the_last_ones_of_the_stream_before() -> None:
    streams = [described("1", a=None, b="a", c="a", d="b"), described("2"), described("3", e=None, f="e")]
    assert {partition.id: set(partition.parents) for partition in partitions(streams)} == {
        "a": set(),
        "b": {"a"},
        "c": {"a"},
        "d": {"b"},
        "e": {"c", "d"},
        "f": {"e"},
    }


@pytest.mark.parametrize(
    ("shard", "tells"),
    [
        ("shardId-00000001414576573621-f55eea83", True),
        ("shardId-00000000000000000000-00000000", False),
        ("shardId-000000000000", False),
        ("0", False),
    ],
)
def test_a_shard_id_with_a_time_tells_by_itself(shard: str, tells: bool) -> None:
    assert tells_by_itself(shard) is tells
    assert identity([described("the ARN", **{shard: None})]) == (None if tells else "the ARN")
