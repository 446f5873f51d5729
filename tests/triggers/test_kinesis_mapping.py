"""A mapping on Kinesis, polled and by enhanced fan-out, under the kit of all mappings."""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from millstream.cli.embedded import TEST_CREDENTIALS
from millstream.store.sqlite import SqliteStore
from millstream.triggers.kinesis import KinesisTrigger
from tests.brokers.kinesis_fake import CONSUMER_ARN, NAME, KinesisFake, sequence
from tests.brokers.kinesis_local import KinesisLocal
from tests.brokers.ministack import Ministack
from tests.contract.mapping_kit import Broker, MappingKit, positions
from tests.fakes import FakeDestination
from tests.hostile.corpus import Odd
from tests.hostile.kinesis import ODD_PUTS

pytestmark = pytest.mark.broker

WITHIN_S = 10.0
REGISTERED_IN_S = 4.0


class KinesisBroker(Broker):
    """A stream of one shard, whose packed records are taken apart."""

    trigger = KinesisTrigger
    kind = "kinesis"
    largest = 1_000_000
    gives_up_odds = 0
    gives_up: ClassVar = {"maximum_retry_attempts": 0}

    def __init__(self, broker_url: str, client: Any) -> None:
        self.broker_url = broker_url
        self.client = client
        self.name = f"s-{uuid.uuid4().hex[:12]}"
        self._last = ""  # sequence number
        self.create()

    @property
    def options(self) -> Mapping[str, object]:  # type: ignore[override]  # read when a mapping is made
        return {
            "stream": self.declared,
            "starting_position": "TRIM_HORIZON",
            "batch_size": 10,
            "deaggregate": True,
        }

    @property
    def declared(self) -> str:
        return self.name

    def create(self) -> None:
        self.client.create_stream(StreamName=self.name, ShardCount=1)
        self._until("ACTIVE")

    def remove(self) -> None:
        made_at = self._status()["StreamCreationTimestamp"].timestamp()
        self.client.delete_stream(StreamName=self.name, EnforceConsumerDeletion=True)
        self._until(None)
        time.sleep(max(0.0, made_at + 1.1 - time.time()))  # the emulator tells streams apart by the second

    def put(self, data: str) -> None:
        self._send(Data=data.encode())

    def put_odd(self, odd: Odd) -> bool:
        key = "k"
        if odd.key is not None:
            try:
                key = odd.key.decode()
            except UnicodeDecodeError:
                return False
        if odd.headers or odd.at_ms is not None:
            return False
        return self._takes(Data=odd.body, PartitionKey=key)

    def put_own_odds(self) -> int:
        sent = 0
        for odd in ODD_PUTS:
            explicit = {} if odd.hash_key is None else {"ExplicitHashKey": odd.hash_key}
            if self._takes(Data=odd.data, PartitionKey=odd.key, **explicit):
                sent += odd.records
        return sent

    def records(self, event: Any) -> Sequence[Any]:
        return list(event["Records"])

    def data(self, record: Any) -> bytes | None:
        return base64.b64decode(record["kinesis"]["data"], validate=True)

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        return await positions(store, mapping) == [self._last]

    def _takes(self, **record: Any) -> bool:
        try:
            self._send(**record)
        except (ClientError, ParamValidationError):  # what the service does not take, no producer can send
            return False
        return True

    def _send(self, **record: Any) -> None:
        sent = self.client.put_record(StreamName=self.name, **{"PartitionKey": "k", **record})
        self._last = sent["SequenceNumber"]

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.describe_stream_summary(StreamName=self.name)
        return dict(found["StreamDescriptionSummary"])

    def _until(self, status: str | None) -> None:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            try:
                if self._status()["StreamStatus"] == status:
                    return
            except self.client.exceptions.ResourceNotFoundException:
                if status is None:
                    return
            time.sleep(0.01)
        raise TimeoutError(f"the stream is not {status}")


class FanoutBroker(KinesisBroker):
    """The same, read by a consumer, whose ARN has the second at which it was registered."""

    can_be_made_anew = False  # a mapping names a consumer, which is gone for good with its stream
    _consumer = ""  # ARN
    _register_at = 0

    @property
    def declared(self) -> str:
        return self._consumer

    def create(self) -> None:
        super().create()
        arn = self._status()["StreamARN"]
        time.sleep(max(0.0, self._register_at - time.time()))
        made = self.client.register_stream_consumer(StreamARN=arn, ConsumerName="c")
        assert self._consumer in ("", made["Consumer"]["ConsumerARN"])
        self._consumer = made["Consumer"]["ConsumerARN"]

    def remove(self) -> None:
        """Delete stream and consumer; a mapping names the one that `create` will register."""
        super().remove()
        self._register_at = int(time.time() + REGISTERED_IN_S)
        self._consumer = self._consumer.rpartition(":")[0] + f":{self._register_at}"


class FakeBroker(KinesisBroker):
    """The fake endpoint: records have up to 10 MB, and streams of its name begin with the same numbers."""

    largest = 4_400_000
    gives_up_odds = 2

    def __init__(self, fake: KinesisFake, stream: str) -> None:
        self.broker_url = fake.url
        self._fake = fake
        self._stream = stream

    @property
    def declared(self) -> str:
        return self._stream

    def create(self) -> None:
        self._fake.records.clear()
        self._fake.created_at += 1.0
        self._fake.status = self._fake.consumer_status = "ACTIVE"

    def remove(self) -> None:
        self._fake.status = self._fake.consumer_status = None

    def put_own_odds(self) -> int:
        """What no producer can send, too: fields of a wrong form, and half a character in a key."""
        sent = super().put_own_odds()
        for name, value in (("PartitionKey", 7), ("Data", {}), ("PartitionKey", "half \ud83d")):
            self._send(Data=b"odd")
            self._fake.records[-1][name] = value
            sent += 1
        return sent

    def _send(self, **record: Any) -> None:
        self._fake.put(record["Data"], record.get("PartitionKey", "k"))
        self._last = sequence(len(self._fake.records) - 1)


class FakeFanoutBroker(FakeBroker):
    """The same, read by a consumer. Its events, of all records that there are, have 24 MB at most."""

    largest = 1_000_000
    can_be_made_anew = False


@pytest.fixture
def kinesis_fake() -> Iterator[KinesisFake]:
    os.environ.update(TEST_CREDENTIALS)
    with KinesisFake() as running:
        yield running


class TestPolling(MappingKit):
    @pytest.fixture
    def broker(self, ministack: Ministack) -> Iterator[Broker]:
        client = ministack.client("kinesis")
        yield KinesisBroker(ministack.endpoint_url, client)
        client.close()


class TestFanout(MappingKit):
    @pytest.fixture
    def broker(self, ministack: Ministack) -> Iterator[Broker]:
        client = ministack.client("kinesis")
        yield FanoutBroker(ministack.endpoint_url, client)
        client.close()


class LocalBroker(KinesisBroker):
    """An endpoint that takes seconds for a megabyte; events are filled on the others."""

    largest = 100_000


class TestPollingAnother(MappingKit):
    @pytest.fixture
    def broker(self, kinesis_local: KinesisLocal) -> Iterator[Broker]:
        client = kinesis_local.client()
        yield LocalBroker(kinesis_local.endpoint_url, client)
        client.close()


class TestFake(MappingKit):
    @pytest.fixture
    def broker(self, kinesis_fake: KinesisFake) -> Broker:
        return FakeBroker(kinesis_fake, NAME)


class TestFakeFanout(MappingKit):
    @pytest.fixture
    def broker(self, kinesis_fake: KinesisFake) -> Broker:
        return FakeFanoutBroker(kinesis_fake, CONSUMER_ARN)


@pytest.mark.parametrize("stream", [NAME, CONSUMER_ARN])
async def test_a_record_that_no_event_holds_is_given_up_at_once_and_all_others_are_taken(
    kinesis_fake: KinesisFake, stream: str, tmp_path: Path
) -> None:
    destination = FakeDestination()
    broker = FakeBroker(kinesis_fake, stream)
    largest, larger = "a" * broker.largest, "b" * 5_000_000
    for data in ("before", largest, larger, "after"):
        broker.put(data)
    async with MappingKit().running(broker, tmp_path, destination=destination) as it:
        await it.until_at_end()
    assert it.function.taken == [b"before", largest.encode(), b"after"]
    (document,) = [json.loads(document.body) for document in destination.records]
    assert document["requestContext"]["condition"] == "MaximumPayloadSizeExceeded"
    assert document["KinesisBatchInfo"]["startSequenceNumber"] == sequence(2)
    assert (it.observer.discarded, it.observer.dropped) == (1, 0)
