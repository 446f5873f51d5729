"""The Kafka of the tests: Apache Kafka itself, one broker on loopback."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are its public names
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from tests.brokers.kafka_server import KafkaContainer, Listener, LocalKafka
from tests.brokers.ports import free_port
from tests.brokers.provider import Server, provided

READY_WITHIN_S = 60.0
WITHIN_S = 10.0
READ_WITHIN_S = 20.0
QUIET = {"log_level": 0}

K = TypeVar("K", bound="Kafka")


class Kafka:
    """A broker in a folder of its own; may be ended and started again on the same ports."""

    def __init__(
        self, folder: Path, listeners: Sequence[Listener] = (), settings: Mapping[str, str] | None = None
    ) -> None:
        plain = Listener("PLAINTEXT", free_port(), "PLAINTEXT")
        self.bootstrap = plain.address
        self.folder = folder  # of its files, where it runs on this host
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        wanted = (folder, free_port(), [plain, *listeners], settings or {})

        def local() -> Server:
            return LocalKafka(*wanted)

        def container() -> Server:
            return KafkaContainer(*wanted)

        self._server = provided("Kafka", local=local, containers=container)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and self._server.running():
            try:
                if self.admin.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                continue  # waited for already
        raise TimeoutError(f"Kafka did not answer: {self._server.log()[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, as a host that loses its power would."""
        self._server.kill()

    def stop(self) -> None:
        """End it; its files stay."""
        self._server.stop()

    def restart(self) -> None:
        """End it and start it again."""
        self.stop()
        self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It does nothing meanwhile, and its connections stay open."""
        self._server.pause()
        try:
            yield
        finally:
            self._server.resume()

    def close(self) -> None:
        """End it for good."""
        self._server.remove()

    def create_topic(self, partitions: int, name: str = "", **settings: str) -> str:
        """The name of a new topic that the broker knows by now; settings as Kafka has them, `_` for `.`."""
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        config = {key.replace("_", "."): value for key, value in settings.items()}
        made = self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])
        made[name].result(WITHIN_S)
        self._wait_for(name)
        return name

    def _wait_for(self, topic: str) -> None:
        """The controller has made it, and the broker hears of that a moment later."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                self.admin.describe_topics(TopicCollection([topic]))[topic].result(WITHIN_S)
                return
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def configure(self, topic: str, **settings: str) -> None:
        """Change settings of a topic, `_` for `.`."""
        entries = [
            ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for key, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for done in self.admin.incremental_alter_configs([resource]).values():
            done.result(WITHIN_S)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's offsets, as an administrator sees them."""
        asked = ConsumerGroupTopicPartitions(group)
        found = self.admin.list_consumer_group_offsets([asked])[group].result(WITHIN_S)
        places = found.topic_partitions or []
        return {place.partition: place.offset for place in places if place.topic == topic}

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Trim a partition, as its retention does."""
        asked = [TopicPartition(topic, partition, before)]
        for done in self.admin.delete_records(asked).values():
            done.result(WITHIN_S)

    def transaction(self, topic: str, values: Sequence[bytes], *, commit: bool) -> None:
        """Produce to a topic's first partition in one transaction."""
        name = f"tests-{uuid.uuid4().hex[:12]}"
        servers = {"bootstrap.servers": self.bootstrap, "log_level": 0}
        producer = Producer({**servers, "transactional.id": name})
        producer.init_transactions(WITHIN_S)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        producer.flush(WITHIN_S)
        if commit:
            producer.commit_transaction(WITHIN_S)
        else:
            producer.abort_transaction(WITHIN_S)


def put(settings: Mapping[str, str], topic: str, value: bytes) -> None:
    """A record that the first partition of a topic holds when this returns."""
    producer = Producer({**settings, **QUIET})
    producer.produce(topic, value, partition=0)
    assert producer.flush(READ_WITHIN_S) == 0


def first(settings: Mapping[str, str], topic: str) -> bytes | None:
    """The value of the first record of a topic's first partition."""
    consumer = Consumer({**settings, **QUIET, "group.id": "none"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(READ_WITHIN_S)
        if message is None:
            raise TimeoutError(f"{topic}: wanted a record within {READ_WITHIN_S:g} s, found none")
        if (error := message.error()) is not None:
            raise KafkaException(error)
        return message.value()
    finally:
        consumer.close()


@contextmanager
def running(broker: K) -> Iterator[K]:
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker for the session; tests make topics of their own, and leave it running."""
    with running(Kafka(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker


@pytest.fixture
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that a test may kill and start as it likes."""
    with running(Kafka(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker
