"""A mapping on Kafka, with both clients, under the kit of all mappings."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
from confluent_kafka import Producer
from kafka import KafkaProducer

from millstream.store.sqlite import SqliteStore
from millstream.triggers.kafka import KafkaTrigger
from tests.brokers.kafka import Kafka
from tests.contract.mapping_kit import Broker, MappingKit
from tests.hostile.corpus import Odd
from tests.triggers.test_kafka_bytes import Name

pytestmark = pytest.mark.broker

WITHIN_S = 20.0


class KafkaBroker(Broker):
    """A topic of one partition."""

    trigger = KafkaTrigger
    kind = "kafka"
    largest = 900_000
    gives_up_odds = 0
    gives_up: ClassVar = {"maximum_retry_attempts": 0}

    def __init__(self, kafka: Kafka, client: str) -> None:
        self.broker_url = "http://127.0.0.1:9"  # of AWS, which nobody asks
        self._kafka = kafka
        self._name = f"t-{uuid.uuid4().hex[:12]}"
        self._group = f"g-{uuid.uuid4().hex[:12]}"
        self._producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=0)
        self._sent = 0
        self.options = {
            "topic": self._name,
            "bootstrap_servers": kafka.bootstrap,
            "starting_position": "TRIM_HORIZON",
            "consumer_group_id": self._group,
            "batch_size": 10,
            "client": client,
        }
        self.create()

    def create(self) -> None:
        self._kafka.create_topic(1, self._name, message_timestamp_after_max_ms=str(2**63 - 1))
        self._sent = 0

    def remove(self) -> None:
        for done in self._kafka.admin.delete_topics([self._name]).values():
            done.result(WITHIN_S)

    def put(self, data: str) -> None:
        self._send(value=data.encode())

    def put_odd(self, odd: Odd) -> bool:
        record: dict[str, Any] = {"value": odd.body, "key": odd.key}
        if odd.headers:
            if None in dict(odd.headers).values():
                self._produce(odd.body, [(name.decode(), value) for name, value in odd.headers])
                return True
            record["headers"] = [(Name(name), value) for name, value in odd.headers]
        if odd.at_ms is not None:
            if odd.at_ms < 0:
                return False  # of a client's own: none is sent then
            record["timestamp_ms"] = odd.at_ms
        self._send(**record)
        return True

    def put_own_odds(self) -> int:
        self._send(value=None, key=b"tombstone")
        self._produce(None, [])
        return 2

    def records(self, event: Any) -> Sequence[Any]:
        return [record for records in event["records"].values() for record in records]

    def data(self, record: Any) -> bytes | None:
        value = record.get("value")
        return None if value is None else base64.b64decode(value, validate=True)

    async def at_end(self, store: SqliteStore, mapping: str) -> bool:
        return self._kafka.committed(self._group, self._name).get(0) == self._sent

    def close(self) -> None:
        self._producer.close()

    def _send(self, **record: Any) -> None:
        self._producer.send(self._name, partition=0, **record).get(WITHIN_S)
        self._sent += 1

    def _produce(self, value: bytes | None, headers: list[tuple[str, str | bytes | None]]) -> None:
        """Send what the other client refuses: a header without a value, a record without key and value."""
        producer = Producer({"bootstrap.servers": self._kafka.bootstrap})
        producer.produce(self._name, value, partition=0, headers=headers)
        assert producer.flush(WITHIN_S) == 0
        self._sent += 1


def made(kafka: Kafka, client: str) -> Iterator[Broker]:
    broker = KafkaBroker(kafka, client)
    yield broker
    broker.close()


class TestConfluent(MappingKit):
    @pytest.fixture
    def broker(self, kafka: Kafka) -> Iterator[Broker]:
        yield from made(kafka, "confluent")


class TestKafkaPython(MappingKit):
    @pytest.fixture
    def broker(self, kafka: Kafka) -> Iterator[Broker]:
        yield from made(kafka, "kafka-python")
