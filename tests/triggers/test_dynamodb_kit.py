"""DynamoDB Streams, of the emulator and of the fake, under the kit of all stream triggers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from millstream.contract.records import Position, Record
from millstream.contract.streams import Oldest
from millstream.triggers.dynamodb import DynamoDbTrigger
from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.ministack import Ministack
from tests.contract.queue_kit import FUNCTION
from tests.contract.stream_kit import StreamKit
from tests.contract.streams import Stream, host, read, the_partition

pytestmark = pytest.mark.broker

STREAM_ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/orders/stream/2026-01-01T00:00:00.000"

BAD_OPTIONS = (
    ("stream", "no table"),
    ("stream", ""),
    ("stream", "ab"),
    ("stream", "a" * 256),
    ("stream", "arn:aws:kinesis:us-east-1:000000000000:stream/s"),
    ("stream", "arn:aws:dynamodb:us-east-1:000000000000:table/orders/index/by-day"),
    ("stream", f"{STREAM_ARN}/"),
    ("stream", 7),
    ("starting_position", "AT_TIMESTAMP"),
    ("starting_position", None),
    ("starting_position_timestamp", 1.0),
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
    ("queue", "q"),
)


class EmulatorStream(Stream):
    """A table of the emulator; each key that is put is an item that is written again and again."""

    poll_mark = b"DynamoDBStreams_20120810.GetRecords"
    searches_by_time = False
    lost_position = Position("111")

    def __init__(self, ministack: Ministack) -> None:
        self.broker_url = ministack.endpoint_url
        self.client = ministack.client("dynamodb")
        self.table = f"t-{uuid.uuid4().hex[:12]}"
        created = self.client.create_table(
            TableName=self.table,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        self.stream_arn: str = created["TableDescription"]["LatestStreamArn"]
        self.options = {"stream": self.table, "starting_position": "TRIM_HORIZON"}
        self.missing_name = "t-missing"
        self.missing = {**self.options, "stream": self.missing_name}

    def put(self, data: str, key: str = "k") -> None:
        item = {"pk": {"S": key}, "data": {"S": data}}
        self.client.put_item(TableName=self.table, Item=item)

    def data(self, record: Record) -> str:
        data: str = msgspec.json.decode(record.event)["dynamodb"]["NewImage"]["data"]["S"]
        return data

    def event(self, record: Record, data: str, key: str) -> Mapping[str, Any]:
        return insert_of(record, data, key, self.stream_arn)


class FakeStreamOfKit(Stream):
    """A stream of the fake."""

    poll_mark = b"DynamoDBStreams_20120810.GetRecords"
    searches_by_time = False
    lost_position = Position("111")

    def __init__(self, fake: DynamoDbFake) -> None:
        self.broker_url = fake.url
        self.stream = fake.stream("orders")
        self.options = {"stream": self.stream.arn, "starting_position": "TRIM_HORIZON"}
        self.missing_name = "missing"
        self.missing = {**self.options, "stream": STREAM_ARN.replace("orders", self.missing_name)}

    def put(self, data: str, key: str = "k") -> None:
        self.stream.put({"pk": {"S": key}}, {"pk": {"S": key}, "data": {"S": data}})

    def data(self, record: Record) -> str:
        data: str = msgspec.json.decode(record.event)["dynamodb"]["NewImage"]["data"]["S"]
        return data

    def event(self, record: Record, data: str, key: str) -> Mapping[str, Any]:
        return insert_of(record, data, key, self.stream.arn)

    def reshard(self) -> bool:
        (shard,) = self.stream.open_shards()
        self.stream.split(shard)
        return True


def insert_of(record: Record, data: str, key: str, stream_arn: str) -> Mapping[str, Any]:
    """The event of an insert; its id, size and time are the broker's."""
    found = msgspec.json.decode(record.event)
    change = found["dynamodb"]
    assert isinstance(change["ApproximateCreationDateTime"], int)
    return {
        "eventID": found["eventID"],
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": int(record.arrived_at),
            "Keys": {"pk": {"S": key}},
            "NewImage": {"pk": {"S": key}, "data": {"S": data}},
            "SequenceNumber": record.item_id,
            "SizeBytes": change["SizeBytes"],
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": stream_arn,
    }


class TestDynamoDb(StreamKit):
    trigger = DynamoDbTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def stream(self, ministack: Ministack) -> Iterator[Stream]:
        made = EmulatorStream(ministack)
        yield made
        made.client.close()


class TestDynamoDbFake(StreamKit):
    trigger = DynamoDbTrigger
    bad_options = BAD_OPTIONS

    @pytest.fixture
    def stream(self, dynamodb_fake: DynamoDbFake) -> Stream:
        return FakeStreamOfKit(dynamodb_fake)


async def test_a_stream_enabled_again_is_another_one_by_its_identity(ministack: Ministack) -> None:
    """The emulator has one shard id for all streams, so that its shards do not tell."""
    stream = EmulatorStream(ministack)
    source = await DynamoDbTrigger.parse(stream.options).open(host(stream.broker_url), FUNCTION)
    await source.partitions()
    assert source.identity == stream.stream_arn
    for enabled in (False, True):
        specification = {"StreamEnabled": enabled, **({"StreamViewType": "NEW_IMAGE"} if enabled else {})}
        stream.client.update_table(TableName=stream.table, StreamSpecification=specification)
    latest = stream.client.describe_table(TableName=stream.table)["Table"]["LatestStreamArn"]
    stream.put("new")
    stream.client.close()
    partition = await the_partition(source)
    assert source.identity == source.event_source_arn == latest != stream.stream_arn
    reader = await source.reader(partition, Oldest())
    assert [stream.data(record) for record in await read(reader, 1)] == ["new"]
    await source.aclose()


async def test_changes_of_items_come_through_the_emulator_as_aws_writes_them(ministack: Ministack) -> None:
    stream = EmulatorStream(ministack)
    key: dict[str, Any] = {"pk": {"S": "a"}}
    item = {**key, "b": {"B": b"\x00\xff"}, "bs": {"BS": [b"\xff"]}, "n": {"N": "1.50"}, "ns": {"NS": ["1"]}}
    stream.client.put_item(TableName=stream.table, Item=item)
    stream.client.update_item(
        TableName=stream.table,
        Key=key,
        UpdateExpression="SET n = :n",
        ExpressionAttributeValues={":n": {"N": "2"}},
    )
    stream.client.delete_item(TableName=stream.table, Key=key)
    stream.client.close()
    source = await DynamoDbTrigger.parse(stream.options).open(host(stream.broker_url), FUNCTION)
    reader = await source.reader(await the_partition(source), Oldest())
    records = await read(reader, 3)
    await source.aclose()
    inserted, modified, removed = [msgspec.json.decode(record.event) for record in records]
    image = {
        **key,
        "b": {"B": "AP8="},
        "bs": {"BS": ["/w=="]},
        "n": inserted["dynamodb"]["NewImage"]["n"],
        "ns": {"NS": ["1"]},
    }
    assert [each["eventName"] for each in (inserted, modified, removed)] == ["INSERT", "MODIFY", "REMOVE"]
    assert inserted["dynamodb"]["NewImage"] == modified["dynamodb"]["OldImage"] == image
    assert modified["dynamodb"]["NewImage"] == removed["dynamodb"]["OldImage"] == {**image, "n": {"N": "2"}}
    assert "OldImage" not in inserted["dynamodb"]
    assert "NewImage" not in removed["dynamodb"]
    assert {record.ordering_key for record in records} == {'{"pk":{"S":"a"}}'}
