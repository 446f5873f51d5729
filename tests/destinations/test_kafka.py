"""A Kafka topic as a destination: the kit with both client libraries, and what a topic is given."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, Refused
from millstream.contract.ports import Destination, InvocationRecord
from millstream.destinations import kafka_confluent
from millstream.destinations.kafka_producer import MOST_BYTES, OVERHEAD_BYTES, USUAL_LIMIT_BYTES, limit_of
from tests.brokers.kafka import Kafka
from tests.brokers.kafka_secure import SecureKafka
from tests.contract.destinations_kit import (
    AWKWARD,
    SECRET,
    WITHIN_S,
    DestinationsKit,
    Target,
    host,
    record_of,
)

pytestmark = pytest.mark.broker

LIBRARIES = ["confluent", "kafka-python"]


@dataclass(frozen=True)
class Sent:
    partition: int | None
    key: bytes | None
    value: bytes


def sent(bootstrap: str, topic: str, enough: Callable[[list[Sent]], bool], partitions: int = 1) -> list[Sent]:
    """What a topic holds, as soon as that is enough."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "log_level": 0})
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
        found: list[Sent] = []
        while not enough(found):
            message = consumer.poll(WITHIN_S)
            assert message is not None
            assert message.error() is None
            found.append(Sent(message.partition(), message.key(), message.value() or b""))
        return found
    finally:
        consumer.close()


@contextmanager
def silent(kafka: Kafka) -> Iterator[None]:
    """The broker does not answer meanwhile; afterwards it does, and has its place in its cluster again.

    One that stood still for longer than its session may never take its place again; it is started anew.
    """
    with kafka.hung():
        yield
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        try:
            kafka.create_topic(1)
            return
        except (KafkaException, TimeoutError):
            continue  # waited for already
    kafka.restart()


class Topic(Target):
    """A topic of one partition."""

    def __init__(self, kafka: Kafka, library: str, hung: ExitStack, **topic: str) -> None:
        self._kafka = kafka
        self._hung = hung
        self.topic = kafka.create_topic(1, **topic)
        target = f"kafka://{kafka.bootstrap}/{self.topic}"
        self.options = {"kind": "kafka", "target": target, "client": library, "timeout": 2.0}
        self.missing = {"target": f"{target}-missing"}

    def read(self, count: int) -> Sequence[bytes]:
        return [each.value for each in sent(self._kafka.bootstrap, self.topic, lambda f: len(f) >= count)]

    def die(self) -> None:
        self._hung.enter_context(silent(self._kafka))


class TestKafka(DestinationsKit):
    bad_options: Sequence[tuple[str, object]] = (
        ("target", "kafka://topic"),
        ("target", "kafka://127.0.0.1/topic"),
        ("target", "kafka://127.0.0.1:9092"),
        ("target", "kafka://127.0.0.1:9092/"),
        ("target", "kafka://127.0.0.1:99999/topic"),
        ("target", "kafka://127.0.0.1:9092/a b"),
        ("target", "kafka://127.0.0.1:9092/.."),
        ("target", "kafka://127.0.0.1:9092/a/b"),
        ("target", f"kafka://127.0.0.1:9092/{'x' * 250}"),
        ("target", "kafka://user:password@127.0.0.1:9092/topic"),
        ("target", "kafka://127.0.0.1:9092,/topic"),
        ("target", 7),
        ("client", "pulsar"),
        ("timeout", 0),
        ("timeout", 61),
        ("sasl_mechanism", "GSSAPI"),
        ("ssl_ca_file", 7),
        ("bootstrap_servers", "127.0.0.1:9092"),
        ("topic", "t"),
    )

    @pytest.fixture(params=LIBRARIES)
    def target(self, request: pytest.FixtureRequest, kafka: Kafka) -> Iterator[Target]:
        with ExitStack() as hung:
            yield Topic(kafka, request.param, hung)


@pytest.fixture(params=LIBRARIES)
def topic(request: pytest.FixtureRequest, kafka: Kafka) -> Iterator[Topic]:
    with ExitStack() as hung:
        yield Topic(kafka, request.param, hung)


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Destination]:
    destination = TestKafka().parsed(target)
    await destination.open(host(target))
    try:
        yield destination
    finally:
        await destination.aclose()


def keyed(number: int, key: bytes | None) -> InvocationRecord:
    return replace(record_of({"number": number}), key=key)


async def test_keys_are_kept_and_records_of_a_key_stay_in_order(kafka: Kafka, topic: Topic) -> None:
    records = [keyed(number, b"k%d" % (number % 3) if number % 3 else None) for number in range(30)]
    async with opened(topic) as destination, asyncio.timeout(WITHIN_S):
        await asyncio.gather(*[destination.deliver(record) for record in records])
    found = sent(kafka.bootstrap, topic.topic, lambda found: len(found) == 30)
    for key in (None, b"k1", b"k2"):
        numbers = [json.loads(each.value)["number"] for each in found if each.key == key]
        assert numbers == [json.loads(record.body)["number"] for record in records if record.key == key]


async def test_both_libraries_put_a_key_into_the_same_partition(kafka: Kafka) -> None:
    name = kafka.create_topic(8)
    for library in LIBRARIES:
        with ExitStack() as hung:
            target = Topic(kafka, library, hung)
            target.options = {**target.options, "target": f"kafka://{kafka.bootstrap}/{name}"}
            async with opened(target) as destination:
                for number in range(20):
                    await destination.deliver(keyed(number, b"%d" % number))
    places: dict[bytes | None, set[int | None]] = {}
    for each in sent(kafka.bootstrap, name, lambda found: len(found) == 40, partitions=8):
        places.setdefault(each.key, set()).add(each.partition)
    assert all(len(found) == 1 for found in places.values())
    assert len(set.union(*places.values())) > 1


async def test_a_record_that_could_not_be_written_is_written_when_the_broker_is_back(
    kafka: Kafka, topic: Topic
) -> None:
    async with opened(topic) as destination, asyncio.timeout(WITHIN_S):
        await destination.deliver(record_of("first"))
        with silent(kafka), pytest.raises(DestinationUnavailable):
            await destination.deliver(record_of("lost"))
        await destination.deliver(record_of("last"))
    found = sent(kafka.bootstrap, topic.topic, lambda found: b'"last"' in [each.value for each in found])
    assert found[0].value == b'"first"'  # what nobody confirmed may stand between them


async def test_the_limit_is_that_of_the_topic(kafka: Kafka, topic: Topic) -> None:
    with ExitStack() as hung:
        small = Topic(kafka, str(topic.options["client"]), hung, max_message_bytes="20000")
        async with opened(small) as destination, asyncio.timeout(WITHIN_S):
            limit = destination.limit_bytes
            assert limit == 20000 - OVERHEAD_BYTES
            await destination.deliver(record_of("x" * (limit - 2)))
            with pytest.raises(DocumentTooLarge):
                await destination.deliver(record_of("x" * (limit - 1)))
            await asyncio.gather(*[destination.deliver(record_of("x" * 5000)) for _ in range(20)])
        assert len(small.read(21)) == 21


async def test_a_limit_that_is_lowered_while_it_is_open_is_learned(kafka: Kafka, topic: Topic) -> None:
    async with opened(topic) as destination, asyncio.timeout(WITHIN_S):
        kafka.configure(topic.topic, max_message_bytes="20000")
        delivered = 0
        with pytest.raises(DocumentTooLarge):
            while True:  # the broker heeds its new limit a moment after it has confirmed it
                await destination.deliver(record_of("x" * 30_000))
                delivered += 1
        assert destination.limit_bytes == 20_000 - OVERHEAD_BYTES
        await destination.deliver(record_of("x" * (destination.limit_bytes - 2)))
    assert len(topic.read(delivered + 1)) == delivered + 1


async def test_records_above_a_megabyte_are_written_where_the_topic_takes_them(
    kafka: Kafka, topic: Topic
) -> None:
    with ExitStack() as hung:
        large = Topic(kafka, str(topic.options["client"]), hung, max_message_bytes="8000000")
        large.options = {**large.options, "timeout": 10.0}
        async with opened(large) as destination, asyncio.timeout(WITHIN_S):
            assert destination.limit_bytes == 8_000_000 - OVERHEAD_BYTES
            await destination.deliver(record_of("x" * 7_000_000))
        assert [len(body) for body in large.read(1)] == [7_000_002]


@pytest.mark.parametrize(
    ("found", "limit"),
    [
        (None, USUAL_LIMIT_BYTES - OVERHEAD_BYTES),
        ("5000", 5000 - OVERHEAD_BYTES),
        ("10", 1),
        ("2147483647", MOST_BYTES - OVERHEAD_BYTES),
    ],
)
def test_limits_follow_the_topics_within_bounds(found: str | None, limit: int) -> None:
    assert limit_of(found) == limit


async def test_a_cluster_that_does_not_answer_is_unavailable(kafka: Kafka, topic: Topic) -> None:
    topic.options = {**topic.options, "target": "kafka://127.0.0.1:1/failed"}
    with pytest.raises(DestinationUnavailable, match=r"127\.0\.0\.1:1"):
        async with opened(topic):
            pass


def secured(kafka: SecureKafka, library: str, **options: Any) -> Topic:
    with ExitStack() as hung:
        target = Topic(kafka, library, hung)
    servers = kafka.sasl_ssl_bootstrap
    target.options = {
        **target.options,
        "target": f"kafka://{servers}/{target.topic}",
        "security_protocol": "SASL_SSL",
        "ssl_ca_file": str(kafka.ca_file),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": kafka.username,
        "sasl_password": kafka.password,
        **options,
    }
    return target


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_secure_cluster_takes_records_of_its_user(secure_kafka: SecureKafka, library: str) -> None:
    target = secured(secure_kafka, library)
    async with opened(target) as destination:
        await destination.deliver(AWKWARD)
        assert secure_kafka.password not in f"{destination.name} {vars(destination)}"
    assert target.read(1) == [AWKWARD.body]


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_wrong_password_is_refused_at_open_and_never_repeated(
    secure_kafka: SecureKafka, library: str
) -> None:
    with pytest.raises(Refused, match="SASL authentication failed") as refused:
        async with opened(secured(secure_kafka, library, sasl_password=SECRET)):
            pass
    assert SECRET not in str(refused.value)


async def test_a_producer_that_lost_its_place_is_replaced(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Stale] = []

    class Stale:
        """The library's producer, of which the first is past repair."""

        def __init__(self, configuration: dict[str, Any]) -> None:
            self._real = Producer(configuration)
            made.append(self)

        def produce(self, *args: Any, **more: Any) -> None:
            if self is made[0]:
                raise KafkaException(KafkaError(KafkaError._FATAL))
            self._real.produce(*args, **more)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(kafka_confluent, "Producer", Stale)
    with ExitStack() as hung:
        target = Topic(kafka, "confluent", hung)
        async with opened(target) as destination:
            await destination.deliver(AWKWARD)
        assert target.read(1) == [AWKWARD.body]
    assert len(made) == 2
