"""The tests' own Kafka holds what its fixtures promise."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.brokers.kafka import Kafka
from tests.brokers.kafka_secure import SecureKafka

pytestmark = pytest.mark.broker

WITHIN_S = 20.0
QUIET = {"log_level": 0}


def produce(settings: Mapping[str, str], topic: str, value: bytes) -> None:
    producer = Producer({**settings, **QUIET})
    producer.produce(topic, value, partition=0)
    assert producer.flush(WITHIN_S) == 0


def first(settings: Mapping[str, str], topic: str) -> bytes | None:
    """The first value of a topic's first partition."""
    consumer = Consumer({**settings, **QUIET, "group.id": "none", "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(WITHIN_S)
        assert message is not None
        if (error := message.error()) is not None:
            raise KafkaException(error)
        return message.value()
    finally:
        consumer.close()


def test_a_killed_broker_comes_back_with_its_records(own_kafka: Kafka) -> None:
    topic = own_kafka.create_topic(1)
    plain = {"bootstrap.servers": own_kafka.bootstrap}
    produce(plain, topic, b"kept")
    own_kafka.kill()
    own_kafka.start()
    assert first(plain, topic) == b"kept"


@pytest.mark.parametrize("listener", ["sasl", "sasl_ssl", "ssl", "mtls"])
def test_each_listener_serves_who_proves_who_it_is(secure_kafka: SecureKafka, listener: str) -> None:
    topic = secure_kafka.create_topic(1)
    settings = secure_kafka.client(listener)
    produce(settings, topic, listener.encode())
    assert first(settings, topic) == listener.encode()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_each_mechanism_takes_the_password_and_no_other(secure_kafka: SecureKafka, mechanism: str) -> None:
    settings = {**secure_kafka.client("sasl"), "sasl.mechanism": mechanism}
    assert AdminClient({**settings, **QUIET}).list_topics(timeout=WITHIN_S).brokers
    with pytest.raises(KafkaException):
        AdminClient({**settings, **QUIET, "sasl.password": "guess"}).list_topics(timeout=1.0)


def test_mtls_takes_no_client_without_a_certificate(secure_kafka: SecureKafka) -> None:
    settings = {**secure_kafka.client("ssl"), "bootstrap.servers": secure_kafka.mtls_bootstrap}
    with pytest.raises(KafkaException):
        AdminClient({**settings, **QUIET}).list_topics(timeout=1.0)


def test_a_forbidden_topic_is_refused_to_its_user_alone(secure_kafka: SecureKafka) -> None:
    topic = secure_kafka.create_topic(1)
    secure_kafka.forbid_topic(topic)
    users = AdminClient({**secure_kafka.client("sasl"), **QUIET}).list_topics(topic, WITHIN_S)
    assert "TOPIC_AUTHORIZATION_FAILED" in repr(users.topics[topic].error)
    assert secure_kafka.admin.list_topics(topic, WITHIN_S).topics[topic].error is None
