"""Kinesis, polled and by enhanced fan-out, under the kit of all stream triggers."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from millstream.contract.errors import PartitionGone
from millstream.contract.records import Position, Record
from millstream.contract.streams import After, Oldest
from millstream.triggers.kinesis import KinesisTrigger
from tests.brokers.kinesis_local import KinesisLocal
from tests.brokers.ministack import Ministack
from tests.contract.queue_kit import FUNCTION, until
from tests.contract.stream_kit import StreamKit
from tests.contract.streams import Stream, host, read, read_to_the_end, the_partition

pytestmark = pytest.mark.broker

ACTIVE_WITHIN_S = 10
SHARD = "shardId-000000000000"

BAD_OPTIONS = (
    ("stream", "no stream"),
    ("stream", ""),
    ("stream", "a" * 129),
    ("stream", "arn:aws:sqs:us-east-1:000000000000:q"),
    ("stream", "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/2026-01-01T00:00:00.000"),
    ("stream", "arn:aws:kinesis:us-east-1:000000000000:stream/s/consumer/c"),
    ("stream", "arn:aws:kinesis::000000000000:stream/s"),
    ("stream", 7),
    ("starting_position", "NEWEST"),
    ("starting_position", None),
    ("starting_position_timestamp", time.time() + 3600),
    ("starting_position_timestamp", "tomorrow"),
    ("deaggregate", "yes"),
    ("batch_size", 0),
    ("batch_size", 10_001),
    ("batching_window", 301),
    ("parallelization_factor", 11),
    ("maximum_retry_attempts", -2),
    ("maximum_record_age", 59),
    ("tumbling_window", 901),
    ("bisect_batch_on_function_error", 1),
    ("report_batch_item_failures", "yes"),
    ("on_failure_required", "no"),
    ("shards", 2),
)


class KinesisStream(Stream):
    """A stream with one shard, made by a boto3 client of the broker."""

    poll_mark = b"Kinesis_20131202.GetRecords"

    def __init__(self, broker_url: str, client: Any) -> None:
        self.broker_url = broker_url
        self.name = f"s-{uuid.uuid4().hex[:12]}"
        self.client = client
        client.create_stream(StreamName=self.name, ShardCount=1)
        self.arn: str = self.active()["StreamARN"]
        self.source_arn = self.arn
        self.options = {"stream": self.name, "starting_position": "TRIM_HORIZON"}
        self.missing_name = "s-missing"
        self.missing = {**self.options, "stream": self.missing_name}

    def active(self) -> dict[str, Any]:
        """The stream's summary, once it has changed as it was asked to."""
        deadline = time.monotonic() + ACTIVE_WITHIN_S
        while True:
            found = self.client.describe_stream_summary(StreamName=self.name)["StreamDescriptionSummary"]
            if found["StreamStatus"] == "ACTIVE":
                return dict(found)
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def split(self, shard: str) -> None:
        """Split a shard that takes all hash keys."""
        self.client.split_shard(StreamName=self.name, ShardToSplit=shard, NewStartingHashKey=str(2**127))
        self.active()

    def merge(self, shard: str, other: str) -> None:
        self.client.merge_shards(StreamName=self.name, ShardToMerge=shard, AdjacentShardToMerge=other)
        self.active()

    def put(self, data: str, key: str = "k") -> None:
        self.client.put_record(StreamName=self.name, PartitionKey=key, Data=data.encode())

    def data(self, record: Record) -> str:
        event = msgspec.json.decode(record.event)
        return base64.b64decode(event["kinesis"]["data"], validate=True).decode()

    def event(self, record: Record, data: str, key: str) -> Mapping[str, Any]:
        return {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": key,
                "sequenceNumber": record.position,
                "data": base64.b64encode(data.encode()).decode(),
                "approximateArrivalTimestamp": record.arrived_at,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{SHARD}:{record.item_id}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::000000000000:role/millstream",
            "awsRegion": "us-east-1",
            "eventSourceARN": self.source_arn,
        }


class FanoutStream(KinesisStream):
    """The same, read by a consumer of its own."""

    poll_mark = b"Kinesis_20131202.SubscribeToShard"

    def __init__(self, broker_url: str, client: Any) -> None:
        super().__init__(broker_url, client)
        consumer = client.register_stream_consumer(StreamARN=self.arn, ConsumerName="c")["Consumer"]
        self.source_arn = consumer["ConsumerARN"]
        self.options = {"stream": self.source_arn, "starting_position": "TRIM_HORIZON"}
        self.missing = {**self.options, "stream": self.source_arn.replace(self.name, self.missing_name)}


class TestPolling(StreamKit):
    trigger = KinesisTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def stream(self, ministack: Ministack) -> Stream:
        return KinesisStream(ministack.endpoint_url, ministack.client("kinesis"))


class TestFanout(StreamKit):
    trigger = KinesisTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def stream(self, ministack: Ministack) -> FanoutStream:
        return FanoutStream(ministack.endpoint_url, ministack.client("kinesis"))

    async def test_a_subscription_in_use_ends_as_its_shard_is_split(self, stream: FanoutStream) -> None:
        stream.put("last")
        async with self.opened(stream) as source, self.reading(source) as reader:
            assert [stream.data(record) for record in await read(reader, 1)] == ["last"]
            stream.split(SHARD)
            assert await read_to_the_end(reader) == []


async def anew(stream: KinesisStream) -> None:
    """Delete a stream and make it anew, in another second."""
    before = stream.active()["StreamCreationTimestamp"]
    stream.client.delete_stream(StreamName=stream.name, EnforceConsumerDeletion=True)
    await until(lambda: datetime.now(UTC) > before + timedelta(seconds=1.1))
    async with asyncio.timeout(ACTIVE_WITHIN_S):
        while True:
            try:
                stream.client.create_stream(StreamName=stream.name, ShardCount=1)
                break
            except stream.client.exceptions.ResourceInUseException:  # still being deleted
                await asyncio.sleep(0.05)
    stream.active()


@pytest.mark.parametrize("broker", ["ministack", "kinesis_local"])
async def test_a_stream_made_anew_is_another_one_and_is_read_from_its_beginning(
    request: pytest.FixtureRequest, broker: str
) -> None:
    running = request.getfixturevalue(broker)
    client = running.client("kinesis") if broker == "ministack" else running.client()
    stream = KinesisStream(running.endpoint_url, client)
    source = await KinesisTrigger.parse(stream.options).open(host(stream.broker_url), FUNCTION)
    stream.put("old")
    old = await source.reader(await the_partition(source), Oldest())
    (last,) = await read(old, 1)
    before = source.identity
    await the_partition(source)
    assert source.identity == before
    await anew(stream)
    for data in ("new", "newer"):
        stream.put(data)
    partition = await the_partition(source)
    assert source.identity not in (None, before)
    with pytest.raises(PartitionGone):
        await old.read(10, 0.0)
    for start in (Oldest(), After(last.position)):  # a cursor of the old stream passes nothing of the new one
        reader = await source.reader(partition, start)
        assert [stream.data(record) for record in await read(reader, 2)] == ["new", "newer"]
    await source.aclose()
    client.close()


class ReshardingStream(KinesisStream):
    """On a broker that reshards, and refuses sequence numbers that are not of the stream."""

    lost_position = Position("1")

    def reshard(self) -> bool:
        self.split(SHARD)
        return True


class TestResharding(StreamKit):
    trigger = KinesisTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def stream(self, kinesis_local: KinesisLocal) -> ReshardingStream:
        return ReshardingStream(kinesis_local.endpoint_url, kinesis_local.client())

    async def test_each_generation_of_shards_ends_and_names_its_parents(
        self, stream: ReshardingStream
    ) -> None:
        generations = [[SHARD], ["shardId-000000000001", "shardId-000000000002"], ["shardId-000000000003"]]
        keys = [str(number) for number in range(10)]
        sent = []
        for number in range(3):
            for key in keys:
                sent.append(f"{key}-{number}")
                stream.put(sent[-1], key)
            if number == 0:
                stream.split(SHARD)
            elif number == 1:
                stream.merge(*generations[1])
        got: list[str] = []
        async with self.opened(stream) as source:
            found = {partition.id: partition for partition in await source.partitions()}
            for generation in generations[:-1]:
                for shard in generation:
                    async with self.reading(source, partition=found[shard]) as reader:
                        got += [stream.data(record) for record in await read_to_the_end(reader)]
            async with self.reading(source, partition=found[generations[-1][0]]) as reader:
                got += [stream.data(record) for record in await read(reader, len(keys))]
        assert sorted(got) == sorted(sent)
        for key in keys:
            assert [data for data in got if data.startswith(f"{key}-")] == [f"{key}-{n}" for n in range(3)]
        assert [found[shard].closed for generation in generations for shard in generation] == [
            True,
            True,
            True,
            False,
        ]
        assert found[generations[1][0]].parents == found[generations[1][1]].parents == {SHARD}
        assert found[generations[2][0]].parents == set(generations[1])
