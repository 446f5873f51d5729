"""Events of DynamoDB Streams: their exact bytes, as they come through botocore from the wire."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from millstream.aws.clients import client_config, new_client
from millstream.aws.record_pages import FOUND
from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.contract.records import Reason, Record
from millstream.mappings.filters import compile_filters
from millstream.triggers.dynamodb import DynamoDbTrigger
from millstream.triggers.dynamodb_records import RecordMaker
from millstream.triggers.dynamodb_wire import parsers
from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.dynamodb_streams import FakeStream

OPTIONS: Mapping[str, object] = {"stream": "orders", "starting_position": "TRIM_HORIZON"}
VIEWS = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")
KEY = {"pk": {"S": "a"}, "sk": {"N": "1"}}
NEW = {**KEY, "state": {"S": "new"}}
OLD = {**KEY, "state": {"S": "old"}}
KEY_JSON = '"pk":{"S":"a"},"sk":{"N":"1"}'
NEW_JSON = f'"NewImage":{{{KEY_JSON},"state":{{"S":"new"}}}},'
OLD_JSON = f'"OldImage":{{{KEY_JSON},"state":{{"S":"old"}}}},'


class Service:
    """The fake, and a client of it."""

    def __init__(self, fake: DynamoDbFake) -> None:
        self._fake = fake
        os.environ.update(TEST_CREDENTIALS)
        config = client_config(1)
        self.client = new_client("dynamodbstreams", fake.url, "us-east-1", config, parsers())

    def stream(self, view: str = "NEW_AND_OLD_IMAGES") -> FakeStream:
        return self._fake.stream("orders", view)

    def read(self, stream: FakeStream) -> list[Record]:
        """What was put into the one shard of a stream."""
        (shard,) = stream.shards
        asked = {"StreamArn": stream.arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
        iterator = self.client.get_shard_iterator(**asked)["ShardIterator"]
        found = self.client.get_records(ShardIterator=iterator)[FOUND].records
        return RecordMaker(shard, stream.arn).records(found, 5.0)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with DynamoDbFake() as fake:
        made = Service(fake)
        yield made
        made.client.close()


def images(service: Service, **attributes: Any) -> dict[str, Any]:
    """The new image of an item with these attributes, as the function sees it."""
    stream = service.stream()
    stream.put(KEY, {**KEY, **attributes})
    (record,) = service.read(stream)
    image: dict[str, Any] = json.loads(record.event)["dynamodb"]["NewImage"]
    assert (image.pop("pk"), image.pop("sk")) == (KEY["pk"], KEY["sk"])
    return image


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("name", "new", "old", "expired"),
    [
        ("INSERT", NEW, None, False),
        ("MODIFY", NEW, OLD, False),
        ("REMOVE", None, OLD, False),
        ("REMOVE", None, OLD, True),
    ],
    ids=["insert", "modify", "remove", "time-to-live"],
)
def test_an_event_is_that_of_aws_for_each_change_in_each_view(
    service: Service, view: str, name: str, new: Any, old: Any, expired: bool
) -> None:
    stream = service.stream(view)
    if expired:
        sequence = stream.expire_item(KEY, old, created_at=1760000000.9)
    else:
        sequence = stream.put(KEY, new, old, created_at=1760000000.9)
    (record,) = service.read(stream)
    found = json.loads(record.event)
    image = NEW_JSON if new and view in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES") else ""
    image += OLD_JSON if old and view in ("OLD_IMAGE", "NEW_AND_OLD_IMAGES") else ""
    identity = ',"userIdentity":{"type":"Service","principalId":"dynamodb.amazonaws.com"}' if expired else ""
    assert record.event.decode() == (
        f'{{"eventID":"{found["eventID"]}","eventName":"{name}","eventVersion":"1.1",'
        '"eventSource":"aws:dynamodb","awsRegion":"us-east-1","dynamodb":{'
        f'"ApproximateCreationDateTime":1760000000,"Keys":{{{KEY_JSON}}},{image}'
        f'"SequenceNumber":"{sequence}","SizeBytes":{found["dynamodb"]["SizeBytes"]},'
        f'"StreamViewType":"{view}"}},"eventSourceARN":"{stream.arn}"{identity}}}'
    )


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"S": 'ü ☃ 😀 "\\\n'}, {"S": 'ü ☃ 😀 "\\\n'}),
        ({"N": "12345678901234567890123456789012345678"}, {"N": "12345678901234567890123456789012345678"}),
        ({"N": "-1.5E-128"}, {"N": "-1.5E-128"}),
        ({"B": b"\x00\xff\xfe"}, {"B": "AP/+"}),
        ({"SS": ["b", "a"]}, {"SS": ["b", "a"]}),
        ({"NS": ["1", "2.0"]}, {"NS": ["1", "2.0"]}),
        ({"BS": [b"\xff", b""]}, {"BS": ["/w==", ""]}),
        ({"BOOL": False}, {"BOOL": False}),
        ({"NULL": True}, {"NULL": True}),
        ({"L": []}, {"L": []}),
        ({"M": {}}, {"M": {}}),
        (
            {"M": {"b": {"L": [{"B": b"x"}, {"M": {"n": {"N": "1"}}}, {"NULL": True}]}}},
            {"M": {"b": {"L": [{"B": "eA=="}, {"M": {"n": {"N": "1"}}}, {"NULL": True}]}}},
        ),
    ],
    ids=lambda value: next(iter(value)),
)
def test_each_type_of_value_is_written_as_aws_writes_it(
    service: Service, value: dict[str, Any], seen: dict[str, Any]
) -> None:
    assert images(service, value=value) == {"value": seen}


def test_half_a_surrogate_pair_reaches_the_function_escaped(service: Service) -> None:
    assert images(service, value={"S": "half \ud83d"}) == {"value": {"S": "half \ud83d"}}


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (1760000000.9, 1760000000),
        ("1760000000", 1760000000),
        (1e18, 10**18),
        ("soon", 5),
        ("1e400", 5),
        (None, 5),
        ([], 5),
    ],
    ids=str,
)
def test_a_time_that_makes_no_sense_spoils_nothing(service: Service, written: object, seen: int) -> None:
    stream = service.stream()
    stream.put(KEY, NEW)
    stream.shards[next(iter(stream.shards))].records[0]["dynamodb"]["ApproximateCreationDateTime"] = written
    (record,) = service.read(stream)
    assert json.loads(record.event)["dynamodb"]["ApproximateCreationDateTime"] == seen
    assert record.refused is None
    details = DynamoDbTrigger.parse(OPTIONS).failure_details([record])
    assert details["DDBStreamBatchInfo"]["streamArn"] == stream.arn


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record["dynamodb"].pop("Keys"),
        lambda record: record.pop("eventName"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_and_spoils_no_other(service: Service, spoil: Any) -> None:
    stream = service.stream()
    sent = [stream.put(KEY, NEW) for _ in range(3)]
    spoil(stream.shards[next(iter(stream.shards))].records[1])
    records = service.read(stream)
    assert [record.position for record in records] == sent
    assert [record.refused for record in records] == [None, Reason.DESERIALIZATION_ERROR, None]
    details = DynamoDbTrigger.parse(OPTIONS).failure_details([records[1]])
    assert details["DDBStreamBatchInfo"]["streamArn"] == stream.arn


@pytest.mark.parametrize("missing", ["SizeBytes", "StreamViewType"])
def test_what_only_an_emulator_leaves_out_is_left_out(service: Service, missing: str) -> None:
    stream = service.stream()
    stream.put(KEY, NEW)
    del stream.shards[next(iter(stream.shards))].records[0]["dynamodb"][missing]
    (record,) = service.read(stream)
    assert record.refused is None
    assert missing not in json.loads(record.event)["dynamodb"]


def test_binary_values_that_are_no_base64_reach_the_function_as_they_are(service: Service) -> None:
    assert images(service, value={"B": "no base64!"}) == {"value": {"B": "no base64!"}}


def test_an_image_keeps_the_order_of_its_attributes(service: Service) -> None:
    found = images(service, z={"N": "1"}, a={"N": "2"}, m={"N": "3"})
    assert list(found) == ["z", "a", "m"]


def test_a_record_is_known_by_its_sequence_number_and_ordered_by_its_item(
    service: Service,
) -> None:
    stream = service.stream()
    sequence = stream.put(KEY, NEW, created_at=1760000000)
    (record,) = service.read(stream)
    assert record == Record(
        partition=next(iter(stream.shards)),
        position=record.position,
        item_id=sequence,
        event=record.event,
        arrived_at=1760000000.0,
        received_at=5.0,
        ordering_key='{"pk":{"S":"a"},"sk":{"N":"1"}}',
    )
    assert record.position == sequence


def test_an_items_ordering_key_is_the_same_in_whatever_order_its_key_is_written(
    service: Service,
) -> None:
    stream = service.stream()
    stream.put({"pk": {"B": b"\xff"}, "sk": {"S": "x"}})
    stream.put({"sk": {"S": "x"}, "pk": {"B": b"\xff"}})
    stream.put({"sk": {"S": "\xff"}, "pk": {"B": b"\xff"}})
    first, second, other = service.read(stream)
    assert first.ordering_key == second.ordering_key == '{"pk":{"B":"/w=="},"sk":{"S":"x"}}'
    assert other.ordering_key != first.ordering_key


def test_failure_details_tell_the_range_in_the_shard_in_whole_seconds(service: Service) -> None:
    stream = service.stream()
    first = stream.put(KEY, NEW, created_at=1764088501)
    stream.put(KEY, NEW, created_at=1764088502)
    last = stream.put(KEY, NEW, created_at=1764088503)
    details = DynamoDbTrigger.parse(OPTIONS).failure_details(service.read(stream))
    (shard,) = stream.shards
    assert json.dumps(details, separators=(",", ":")) == (
        f'{{"DDBStreamBatchInfo":{{"shardId":"{shard}",'
        f'"startSequenceNumber":"{first}","endSequenceNumber":"{last}",'
        '"approximateArrivalOfFirstRecord":"2025-11-25T16:35:01Z",'
        '"approximateArrivalOfLastRecord":"2025-11-25T16:35:03Z",'
        f'"batchSize":3,"streamArn":"{stream.arn}"}}}}'
    )


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ({"eventName": ["INSERT", "MODIFY"]}, True),
        ({"eventName": ["REMOVE"]}, False),
        ({"dynamodb": {"NewImage": {"state": {"S": ["new"]}}}}, True),
        ({"dynamodb": {"NewImage": {"state": ["new"]}}}, False),
        ({"dynamodb": {"Keys": {"sk": {"N": ["1"]}}}}, True),
        ({"dynamodb": {"Keys": {"sk": {"N": [{"numeric": [">", 0]}]}}}}, False),
        ({"dynamodb": {"Keys": {"sk": {"N": [{"anything-but": "2"}]}}}}, True),
        ({"dynamodb": {"ApproximateCreationDateTime": [{"numeric": [">", 0]}]}}, True),
        ({"dynamodb": {"NewImage": {"state": [{"exists": False}]}}}, True),
        ({"dynamodb": {"OldImage": {"state": {"S": [{"exists": False}]}}}}, True),
        ({"eventName": ["INSERT"], "dynamodb": {"NewImage": {"state": {"S": ["old"]}}}}, False),
        ({"userIdentity": {"type": ["Service"]}}, False),
    ],
)
def test_filters_see_the_event_of_aws(service: Service, pattern: object, matches: bool) -> None:
    stream = service.stream()
    stream.put(KEY, NEW)
    (record,) = service.read(stream)
    rules = DynamoDbTrigger.parse(OPTIONS).filter_rules
    assert compile_filters([pattern], rules).matches(record) is matches


def test_a_filter_tells_what_time_to_live_removed(service: Service) -> None:
    stream = service.stream()
    stream.put(KEY, None, OLD)
    stream.expire_item(KEY, OLD)
    pattern = {"userIdentity": {"type": ["Service"], "principalId": ["dynamodb.amazonaws.com"]}}
    filters = compile_filters([pattern], DynamoDbTrigger.parse(OPTIONS).filter_rules)
    assert [filters.matches(record) for record in service.read(stream)] == [False, True]
