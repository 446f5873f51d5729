"""Produces to Kafka with librdkafka, through confluent-kafka."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]  # public

from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge, Refused
from millstream.destinations.kafka_producer import CALL_S, OVERHEAD_BYTES, Answer, NotWritten, limit_of
from millstream.kafka.access import Access

POLL_S = 0.1
"""How long a poll waits for answers."""

END_S = 1.0
"""How long the answers of what is not written are waited for at the end."""

REFUSED = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "there is no such topic",
    KafkaError._UNKNOWN_TOPIC: "there is no such topic",
    KafkaError.TOPIC_EXCEPTION: "there is no such topic",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError.SASL_AUTHENTICATION_FAILED: "SASL authentication failed",
    KafkaError._AUTHENTICATION: "SASL authentication failed",
}

TOO_LARGE = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE}
)


class ConfluentProducer:
    """Implements Producer. A thread of its own fetches the answers; it sleeps while there are none."""

    def __init__(self, target: str, topic: str, access: Access, timeout_s: float) -> None:
        self._target = target
        self._topic = topic
        self._changed = threading.Condition()
        self._waiting = 0  # records without an answer
        self._closed = False
        connection = access.for_librdkafka() | {
            "client.id": "millstream",
            "allow.auto.create.topics": False,
            "log_level": 0,  # what matters comes as an error
        }
        self._connection = connection
        with _errors(target, looking=True):
            self.limit_bytes = _look(AdminClient(connection), topic)
            self._configuration = connection | {
                "enable.idempotence": True,  # and with it all acks, in order
                "message.timeout.ms": int(timeout_s * 1000),
                "message.max.bytes": self.limit_bytes + OVERHEAD_BYTES,
                "batch.size": self.limit_bytes,
                "partitioner": "murmur2_random",  # as every other client has it
                "linger.ms": 1,
            }
            self._producer = Producer(self._configuration)
        self._thread: threading.Thread | None = None  # of a producer that was used

    def learn(self, size_bytes: int) -> None:
        found = limit_of(None)
        with suppress(KafkaException):
            found = _look(AdminClient(self._connection), self._topic)
        self.limit_bytes = max(min(found, size_bytes - 1, self.limit_bytes), 1)

    def send(self, key: bytes | None, value: bytes, answer: Answer) -> None:
        def told(error: KafkaError | None, message: Message) -> None:
            with self._changed:
                self._waiting -= 1
            answer(None if error is None else NotWritten(error.name(), error.code() in TOO_LARGE))

        if self._thread is None:
            thread = threading.Thread(target=self._fetch, name="kafka-destination-answers", daemon=True)
            with _errors(self._target, looking=False):
                thread.start()
            self._thread = thread
        with self._changed:
            self._waiting += 1
        try:
            self._produce(key, value, told)
        except BaseException:
            with self._changed:
                self._waiting -= 1
            raise
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._end()

    def _produce(self, key: bytes | None, value: bytes, told: Any) -> None:
        with _errors(self._target, looking=False):
            try:
                self._producer.produce(self._topic, value, key, on_delivery=told)
            except KafkaException as raised:
                if raised.args[0].code() != KafkaError._FATAL:
                    raise
                # It has lost its place in the order of its own records, and sends nothing any more.
                self._end()
                self._producer = Producer(self._configuration)
                self._producer.produce(self._topic, value, key, on_delivery=told)

    def _end(self) -> None:
        """Have every record without an answer answered as not written."""
        self._producer.purge()
        self._producer.flush(END_S)

    def _fetch(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()  # for a record or the end, however long that takes
                if self._closed:
                    return
            self._producer.poll(POLL_S)


def _look(admin: AdminClient, topic: str) -> int:
    """Find the topic; how large a record of it may be."""
    found = admin.list_topics(topic, CALL_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        settings = admin.describe_configs([resource], request_timeout=CALL_S)[resource].result(CALL_S)
    except (KafkaException, TimeoutError):  # not everybody may ask
        return limit_of(None)
    return limit_of(settings["max.message.bytes"].value)


@contextmanager
def _errors(target: str, *, looking: bool) -> Iterator[None]:
    """Turns the library's faults into ours; only while it looks for its target is it refused one."""
    try:
        yield
    except BufferError as raised:
        raise DestinationUnavailable(f"{target}: too many records wait") from raised
    except KafkaException as raised:
        error = raised.args[0]
        if looking and error.code() in REFUSED:
            raise Refused(f"{target}: {REFUSED[error.code()]}") from raised
        if error.code() in TOO_LARGE:
            raise DocumentTooLarge(f"{target}: {error.name()}") from raised
        raise DestinationUnavailable(f"{target}: {error.name()}") from raised
    except Exception as raised:
        raise DestinationUnavailable(f"{target}: {type(raised).__name__}") from raised
