"""A mapping on DynamoDB Streams, of the emulator and of the fake, under the kit of all mappings."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from millstream.store.sqlite import SqliteStore
from millstream.triggers.dynamodb import DynamoDbTrigger
from tests.brokers.dynamodb_fake import DynamoDbFake
from tests.brokers.ministack import Ministack
from tests.contract.mapping_kit import Broker, MappingKit, positions
from tests.hostile.corpus import Odd
from tests.hostile.dynamodb import ODD_CHANGES, ODD_ITEMS

pytestmark = pytest.mark.broker

KEY = {"pk": {"S": "k"}, "sk": {"B": b"k"}}


class DynamoDbBroker(Broker):
    """What a function sees of a stream of a table with a text and bytes for its key."""

    trigger = DynamoDbTrigger
    kind = "dynamodb"
    largest = 390_000
    gives_up: ClassVar = {"maximum_retry_attempts": 0}

    def records(self, event: Any) -> Sequence[Any]:
        return list(event["Records"])

    def data(self, record: Any) -> bytes | None:
        image = record["dynamodb"].get("NewImage")
        match image.get("data") if isinstance(image, dict) else None:
            case {"S": str(text)}:
                return text.encode("utf-8", "surrogatepass")
            case {"B": str(text)}:
                return base64.b64decode(text, validate=True)
        return None


class EmulatorBroker(DynamoDbBroker):
    """A table of the emulator, which is declared by its name."""

    gives_up_odds = 0

    def __init__(self, ministack: Ministack) -> None:
        self.broker_url = ministack.endpoint_url
        self._tables = ministack.client("dynamodb")
        self._streams = ministack.client("dynamodbstreams")
        self._table = f"t-{uuid.uuid4().hex[:12]}"
        self.options: Mapping[str, object] = {
            "stream": self._table,
            "starting_position": "TRIM_HORIZON",
            "batch_size": 10,
        }
        self.create()

    def create(self) -> None:
        made = self._tables.create_table(
            TableName=self._table,
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "B"},
            ],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
        )
        self._arn = made["TableDescription"]["LatestStreamArn"]

    def remove(self) -> None:
        self._tables.delete_table(TableName=self._table)

    def put(self, data: str) -> None:
        self._send({"data": {"S": data}})

    def put_odd(self, odd: Odd) -> bool:
        key = dict(KEY)
        if odd.key is not None:
            key["sk"] = {"B": odd.key}
            if odd.key.isascii() and odd.key:
                key["pk"] = {"S": odd.key.decode()}
        if odd.at_ms is not None:
            return self._takes({"at": {"N": str(odd.at_ms)}}, key)
        names = {name.decode(errors="replace"): _bytes(value) for name, value in odd.headers}
        return self._takes({**names, "data": {"B": odd.body} if odd.text is None else {"S": odd.text}}, key)

    def put_own_odds(self) -> int:
        sent = sum([self._takes(odd.attributes) for odd in ODD_ITEMS])
        self._tables.delete_item(TableName=self._table, Key=KEY)
        return sent + 1

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        (position,) = await positions(store, mapping) or [None]
        if position is None:
            return False
        (shard,) = self._streams.describe_stream(StreamArn=self._arn)["StreamDescription"]["Shards"]
        asked = {"StreamArn": self._arn, "ShardId": shard["ShardId"], "SequenceNumber": position}
        kind = "AFTER_SEQUENCE_NUMBER"
        try:
            iterator = self._streams.get_shard_iterator(**asked, ShardIteratorType=kind)["ShardIterator"]
        except ClientError:  # of the stream before
            return False
        return not self._streams.get_records(ShardIterator=iterator, Limit=1)["Records"]

    def close(self) -> None:
        self._tables.close()
        self._streams.close()

    def _takes(self, attributes: Mapping[str, Any], key: Mapping[str, Any] = KEY) -> bool:
        try:
            self._send(attributes, key)
        except (ClientError, ParamValidationError):  # what the service does not take, no producer can send
            return False
        return True

    def _send(self, attributes: Mapping[str, Any], key: Mapping[str, Any] = KEY) -> None:
        """Write an item, in place of the one before: one key's changes come in their order."""
        item = {**attributes, **key, "again": {"S": uuid.uuid4().hex}}  # what changes nothing is no change
        self._tables.put_item(TableName=self._table, Item=item)


class FakeBroker(DynamoDbBroker):
    """A stream of the fake, by its ARN: what comes over the wire is as odd as it can be."""

    gives_up_odds = sum([odd.broken for odd in ODD_CHANGES])

    def __init__(self, fake: DynamoDbFake) -> None:
        self.broker_url = fake.url
        self._fake = fake
        self.options: Mapping[str, object] = {
            "stream": "orders",
            "starting_position": "TRIM_HORIZON",
            "batch_size": 10,
        }
        self.create()

    def create(self) -> None:
        self._stream = self._fake.stream("orders")

    def remove(self) -> None:
        self._stream.delete()

    def put(self, data: str) -> None:
        self._last = self._stream.put(KEY, {**KEY, "data": {"S": data}})

    def put_odd(self, odd: Odd) -> bool:
        key = KEY if odd.key is None else {**KEY, "sk": {"B": odd.key}}
        names = {name.decode(errors="replace"): _bytes(value) for name, value in odd.headers}
        data = {"B": odd.body} if odd.text is None else {"S": odd.text}
        at = None if odd.at_ms is None else odd.at_ms / 1000
        self._stream.put(key, {**names, **key, "data": data}, created_at=at)
        return True

    def put_own_odds(self) -> int:
        for odd in ODD_CHANGES:
            self._stream.put(KEY, KEY, change=odd.change, event=odd.event)
        for item in ODD_ITEMS:
            self._stream.put(KEY, {**KEY, **item.attributes})
        self._stream.expire_item(KEY, KEY)
        return len(ODD_CHANGES) + len(ODD_ITEMS) + 1

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        return await positions(store, mapping) == [self._last]


def _bytes(value: bytes | None) -> dict[str, Any]:
    return {"NULL": True} if value is None else {"B": value}


class TestDynamoDb(MappingKit):
    @pytest.fixture
    def broker(self, ministack: Ministack) -> Iterator[Broker]:
        made = EmulatorBroker(ministack)
        yield made
        made.close()


class TestDynamoDbFake(MappingKit):
    @pytest.fixture
    def broker(self, dynamodb_fake: DynamoDbFake) -> Broker:
        return FakeBroker(dynamodb_fake)
