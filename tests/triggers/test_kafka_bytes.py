"""What producers may write into a topic, and what becomes of it, with both client libraries."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka import KafkaProducer

from millstream.contract.errors import Refused
from millstream.contract.records import Reason, Record
from millstream.triggers.kafka_unreadable import GIVEN_UP
from tests.brokers.kafka import Kafka
from tests.brokers.kafka_log import spoil
from tests.triggers.kafka_rig import WITHIN_S, Opened, numbered, offsets, opened, produce

pytestmark = [
    pytest.mark.broker,
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

CODECS = ("gzip", "snappy", "lz4", "zstd")


class Name(str):
    """A header's name of any bytes, as a producer in another language or encoding may write it."""

    def __new__(cls, raw: bytes) -> Name:
        made = super().__new__(cls, "name")
        made.raw = raw
        return made

    raw: bytes

    def encode(self, *_: object) -> bytes:
        return self.raw


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def put(kafka: Kafka, topic: str, *records: dict[str, Any]) -> None:
    """Records to the first partition, each in a batch of its own, by the library that looks least at them."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    try:
        for record in records:
            producer.send(topic, partition=0, **record).get(WITHIN_S)
    finally:
        producer.close()


async def read(it: Opened, count: int) -> list[Record]:
    """So many records of the only partition, each of which the client may have to try several times."""
    (lease,) = await it.assigned(count=1)
    return await it.read_through(await it.source.reader([lease]), count)


def headers(record: Record) -> list[dict[str, list[int]]]:
    found: list[dict[str, list[int]]] = json.loads(record.event)["headers"]
    return found


async def test_a_headers_name_that_is_no_utf8_is_delivered_by_a_client_that_is_warm(
    kafka: Kafka, client: str
) -> None:
    topic, warm = kafka.create_topic(1), 5000
    produce(kafka.bootstrap, topic, 0, numbered(0, warm), headers=[("a", b"b")])
    hostile: list[list[tuple[str, bytes]]] = [
        [(Name(b"caf\xe9"), b"v")],
        [("a", b"1"), (Name(b"\xff\xfe"), b"2"), ("b", b"3"), (Name(b"x\x80"), b"4")],
    ]
    put(kafka, topic, *[{"value": b"hostile", "headers": names} for names in hostile * 3])
    produce(kafka.bootstrap, topic, 0, numbered(0, 100), headers=[("a", b"b")])
    async with opened(kafka.bootstrap, topic, client=client) as it:
        records = await read(it, warm + 6 + 100)
    assert offsets(records) == [*range(warm + 106)]
    assert {record.refused for record in records} == {None}
    for at in range(warm, warm + 6, 2):
        assert headers(records[at]) == [{"caf\N{REPLACEMENT CHARACTER}": [ord("v")]}]
        second = headers(records[at + 1])
        assert [[*header.values()] for header in second] == [[[ord(n)]] for n in "1234"]
        assert [next(iter(header)).isascii() for header in second] == [True, False, True, False]
    assert headers(records[-1]) == [{"a": [ord("b")]}]


@pytest.mark.parametrize("codec", CODECS)
async def test_every_codec_is_read(kafka: Kafka, client: str, codec: str) -> None:
    topic, values = kafka.create_topic(1), [b"%d " % n * 1000 for n in range(100)]
    settings = {"bootstrap.servers": kafka.bootstrap, "compression.type": codec, "log_level": 0}
    producer = Producer({**settings, "linger.ms": 100, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(WITHIN_S) == 0
    async with opened(kafka.bootstrap, topic, client=client) as it:
        records = await read(it, 100)
    assert [len(json.loads(record.event)["value"]) for record in records] == [
        4 * ((len(value) + 2) // 3) for value in values
    ]


async def test_a_codec_without_its_library_is_refused_by_its_name(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.create_topic(1, compression_type="zstd")
    produce(kafka.bootstrap, topic, 0, numbered(0, 2))
    monkeypatch.setitem(sys.modules, "cramjam", None)
    async with opened(kafka.bootstrap, topic, client="kafka-python") as it:
        await it.assigned(count=1)
        with pytest.raises(Refused, match="zstd, which needs cramjam"):
            await it.change()


async def test_a_record_without_a_timestamp_is_as_old_as_its_receipt(kafka: Kafka, client: str) -> None:
    topic, began_at = kafka.create_topic(1), time.time()
    put(kafka, topic, {"value": b"v", "timestamp_ms": -1})
    async with opened(kafka.bootstrap, topic, client=client) as it:
        (record,) = await read(it, 1)
    assert json.loads(record.event)["timestamp"] == -1
    assert began_at <= record.arrived_at == record.received_at


@pytest.mark.parametrize(
    ("client", "codec", "mend_checksum"),
    [
        ("confluent", "zstd", True),
        ("confluent", "zstd", False),
        ("kafka-python", "zstd", True),
        ("kafka-python", "zstd", False),
        ("kafka-python", "uncompressed", True),
    ],
)
async def test_a_batch_that_cannot_be_read_is_given_up_under_its_offsets_and_the_next_taken(
    own_kafka: Kafka, client: str, codec: str, mend_checksum: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    topic = own_kafka.create_topic(1, compression_type=codec)
    for first in range(0, 9, 3):
        produce(own_kafka.bootstrap, topic, 0, numbered(first, 3))
    own_kafka.stop()
    spoil(own_kafka.folder, topic, batch=1, mend_checksum=mend_checksum)
    own_kafka.start()
    async with opened(own_kafka.bootstrap, topic, client=client) as it:
        records = await read(it, 9)
    assert offsets(records) == [*range(9)]
    gone = Reason.DESERIALIZATION_ERROR
    assert [record.refused for record in records] == [None] * 3 + [gone] * 3 + [None] * 3
    said = [vars(record) for record in caplog.records if record.message == GIVEN_UP]
    assert [(one["partition"], one["offset"]) for one in said] == [(f"{topic}-0", 3)]
