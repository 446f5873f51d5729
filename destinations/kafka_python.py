"""Produces to Kafka in pure Python, with kafka-python."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource

from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, Refused
from millstream.destinations.kafka_producer import CALL_S, OVERHEAD_BYTES, Answer, NotWritten, limit_of
from millstream.kafka.access import Access

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it logs passwords; what matters comes as an error

CLOSE_S = 1.0
"""How long a close waits for the library's own thread."""

REFUSED: dict[type[Exception], str] = {
    kafka_errors.UnknownTopicOrPartitionError: "there is no such topic",
    kafka_errors.InvalidTopicError: "there is no such topic",
    kafka_errors.AuthorizationError: "Cluster failed to authorize Lambda",
    kafka_errors.SaslAuthenticationFailedError: "SASL authentication failed",
}

TOO_LARGE = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
)


class KafkaPythonProducer:
    """Implements Producer."""

    def __init__(self, target: str, topic: str, access: Access, timeout_s: float) -> None:
        self._target = target
        self._topic = topic
        connection = access.for_kafka_python() | {
            "client_id": "millstream",
            "bootstrap_timeout_ms": int(CALL_S * 1000),
        }
        timeout_ms = int(timeout_s * 1000)
        self._connection = connection
        with _errors(target, looking=True):
            self.limit_bytes = _look(connection, topic)
            self._settings = {
                **connection,
                "acks": "all",
                "enable_idempotence": True,
                "allow_auto_create_topics": False,
                "delivery_timeout_ms": timeout_ms,
                "request_timeout_ms": timeout_ms,
                "max_block_ms": timeout_ms,
                "max_request_size": self.limit_bytes + OVERHEAD_BYTES,
            }
            self._producer: Any = KafkaProducer(**self._settings)  # None: it is made with the next record

    def learn(self, size_bytes: int) -> None:
        found = limit_of(None)
        with suppress(kafka_errors.KafkaError):
            found = _look(self._connection, self._topic)
        self.limit_bytes = max(min(found, size_bytes - 1, self.limit_bytes), 1)
        self.close()  # it has lost its place in the order of its own records, and sends none any more

    def send(self, key: bytes | None, value: bytes, answer: Answer) -> None:
        with _errors(self._target, looking=False):
            if self._producer is None:
                self._producer = KafkaProducer(**self._settings)
            future = self._producer.send(self._topic, value, key)
        future.add_callback(lambda _: answer(None))
        future.add_errback(
            lambda error: answer(NotWritten(type(error).__name__, isinstance(error, TOO_LARGE)))
        )

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with _errors(self._target, looking=False):
                producer.close(CLOSE_S)


def _look(connection: dict[str, Any], topic: str) -> int:
    """Find the topic; how large a record of it may be."""
    admin = KafkaAdminClient(**connection, request_timeout_ms=int(CALL_S * 1000))
    try:
        for found in admin.describe_topics([topic]):
            if found["error_code"]:
                raise kafka_errors.for_code(found["error_code"])
        settings = admin.describe_configs([ConfigResource("TOPIC", topic)], config_filter="all")
    finally:
        admin.close()
    # Not everybody may ask: the answer is empty then.
    return limit_of(settings.get("topic", {}).get(topic, {}).get("max.message.bytes", {}).get("value"))


@contextmanager
def _errors(target: str, *, looking: bool) -> Iterator[None]:
    """Turns the library's faults into ours; only while it looks for its target is it refused one."""
    try:
        yield
    except kafka_errors.KafkaError as raised:
        for kind, why in REFUSED.items():
            if looking and isinstance(raised, kind):
                raise Refused(f"{target}: {why}") from raised
        if isinstance(raised, TOO_LARGE):
            raise DocumentTooLarge(f"{target}: {type(raised).__name__}") from raised
        raise DestinationUnavailable(f"{target}: {type(raised).__name__}") from raised
    except Exception as raised:
        raise DestinationUnavailable(f"{target}: {type(raised).__name__}") from raised
