"""The tests' own Kafka holds what its fixtures promise."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.brokers.kafka import QUIET, Kafka, first, put
from tests.brokers.kafka_secure import SecureKafka

pytestmark = pytest.mark.broker

WITHIN_S = 20.0


def test_a_killed_broker_comes_back_with_its_records(own_kafka: Kafka) -> None:
    topic = own_kafka.create_topic(1)
    plain = {"bootstrap.servers": own_kafka.bootstrap}
    put(plain, topic, b"kept")
    own_kafka.kill()
    own_kafka.start()
    assert first(plain, topic) == b"kept"


@pytest.mark.parametrize("listener", ["sasl", "sasl_ssl", "ssl", "mtls"])
def test_each_listener_serves_who_proves_who_it_is(secure_kafka: SecureKafka, listener: str) -> None:
    topic = secure_kafka.create_topic(1)
    settings = secure_kafka.client(listener)
    put(settings, topic, listener.encode())
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
