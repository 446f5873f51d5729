"""The client on librdkafka, through confluent-kafka: the fast one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.records import Record
from millstream.kafka.access import Access
from millstream.kafka.libraries import CONFLUENT
from millstream.triggers.kafka_client import (
    CALL_S,
    MARGIN_S,
    METADATA_S,
    NOT_COMMITTED,
    PREFETCH_BYTES,
    GroupSettings,
    Listener,
    Polled,
)
from millstream.triggers.kafka_records import TIMESTAMP_TYPES, RecordMaker

logger = logging.getLogger(__name__)

_KINDS = {number + 1: name for number, name in TIMESTAMP_TYPES.items()}  # librdkafka counts from 1

REFUSED = {
    KafkaError._AUTHENTICATION: "SASL authentication failed",
    KafkaError.SASL_AUTHENTICATION_FAILED: "SASL authentication failed",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Cluster failed to authorize Lambda",
    KafkaError._SSL: "Lambda failed to authenticate server",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "there is no such topic",
    KafkaError._UNKNOWN_TOPIC: "there is no such topic",
    KafkaError.FENCED_INSTANCE_ID: "another member has this group_instance_id",
    KafkaError._FENCED: "another member has this group_instance_id",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "the group's other members assign partitions in another way",
}
"""What no retry mends, in AWS's words where it has some.

Source: AWS, "Troubleshooting self-managed Apache Kafka event source mapping errors".
"""


class ConfluentClient:
    """Implements Client."""

    name = CONFLUENT

    def __init__(self, settings: GroupSettings, access: Access, maker: RecordMaker) -> None:
        self._topic = settings.topic
        self._maker = maker
        self._drain_s = settings.drain_s
        self._listener: Listener | None = None
        self._fresh: set[int] = set()  # assigned, and not yet told where to begin
        self._fault: SourceUnavailable | InvalidConfiguration | None = None
        heartbeat_ms = min(3000, int(settings.session_timeout_s * 1000 / 3))
        configuration = access.for_librdkafka() | {
            "client.id": "millstream",
            "group.id": settings.group_id,
            "session.timeout.ms": int(settings.session_timeout_s * 1000),
            "heartbeat.interval.ms": heartbeat_ms,
            "reconnect.backoff.max.ms": heartbeat_ms,  # ten seconds by default, which may be a session
            "partition.assignment.strategy": "cooperative-sticky",
            "isolation.level": "read_committed" if settings.read_committed else "read_uncommitted",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.interval.ms": int(METADATA_S * 1000),
            "fetch.queue.backoff.ms": 2,  # a second by default, for which a small queue stands still
            "queued.max.messages.kbytes": PREFETCH_BYTES // 1024,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            "log_level": 0,  # what matters comes as an error
        }
        if settings.instance_id is not None:
            configuration["group.instance.id"] = settings.instance_id
        with self._errors():
            self._consumer = Consumer(configuration)

    def partitions(self) -> Sequence[int]:
        with self._errors():
            found = self._consumer.list_topics(self._topic, CALL_S).topics[self._topic]
            if found.error is not None:
                raise KafkaException(found.error)
        return sorted(found.partitions)

    def committed(self, partitions: Sequence[int]) -> Mapping[int, int]:
        with self._errors():
            found = self._consumer.committed(self._places(partitions), CALL_S)
        return self._offsets(found)

    def bounds(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        with self._errors():
            bounds = {}
            for place in self._places(partitions):
                found = self._consumer.get_watermark_offsets(place, CALL_S)
                if found is None:
                    raise SourceUnavailable(f"{self._topic}: no answer")
                bounds[place.partition] = found
        return bounds

    def at(self, partitions: Sequence[int], timestamp_s: float) -> Mapping[int, int]:
        ms = int(timestamp_s * 1000)
        asked = [TopicPartition(self._topic, partition, ms) for partition in partitions]
        with self._errors():
            found = self._consumer.offsets_for_times(asked, CALL_S)
        offsets = self._offsets(found)
        behind = [place.partition for place in found if place.offset == OFFSET_END]
        return {**offsets, **{p: ends[1] for p, ends in self.bounds(behind).items()}}

    def subscribe(self, listener: Listener) -> None:
        self._listener = listener

        def assigned(consumer: Consumer, places: list[TopicPartition]) -> None:
            self._fresh.update(place.partition for place in places)
            consumer.incremental_assign([])  # said below, once it is known where they begin

        def revoked(consumer: Consumer, places: list[TopicPartition]) -> None:
            self._fresh.difference_update(place.partition for place in places)
            self._let_go([place.partition for place in places], listener)
            consumer.incremental_unassign(places)

        def lost(consumer: Consumer, places: list[TopicPartition]) -> None:
            self._fresh.difference_update(place.partition for place in places)
            listener.lost([place.partition for place in places])
            consumer.incremental_unassign(places)

        with self._errors():
            self._consumer.subscribe([self._topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def _let_go(self, partitions: Sequence[int], listener: Listener) -> None:
        listener.revoking(partitions).wait(self._drain_s + MARGIN_S)
        if offsets := listener.offsets(partitions):
            try:
                self.commit(offsets, wait=True)
            except (SourceUnavailable, InvalidConfiguration) as error:
                logger.warning(NOT_COMMITTED, extra={"topic": self._topic, "why": str(error)})
        listener.revoked(partitions)

    def _begin_fresh(self) -> None:
        """Say where new partitions begin. Not in the library's callback, which cannot fail."""
        if not self._fresh or self._listener is None:
            return
        starts = self._listener.assigned(sorted(self._fresh))
        self._fresh.clear()
        places = [TopicPartition(self._topic, partition, at) for partition, at in starts.items()]
        with self._errors():
            self._consumer.incremental_assign(places)

    def poll(self, limit: int, wait_s: float) -> Polled:
        self._begin_fresh()
        with self._errors():
            messages = self._consumer.consume(limit, 0)
            if not messages and (first := self._consumer.poll(wait_s)) is not None:
                messages = [first, *self._consumer.consume(limit - 1, 0)]
        if not messages:
            self._raise_fault()
        return self._polled(messages)

    def _polled(self, messages: Sequence[Message]) -> Polled:
        """Raises nothing: what was consumed does not come again."""
        found: dict[int, list[Record]] = {}
        received_at, make = time.time(), self._maker.record
        gone: list[int] = []
        for message in messages:
            partition, offset = message.partition(), message.offset()
            if message.error() is not None or partition is None or offset is None:
                self._note(message, gone)
                continue
            headers: Any = message.headers()
            kind, ms = message.timestamp()
            record = make(
                partition,
                offset,
                _KINDS.get(kind, TIMESTAMP_TYPES[0]),
                ms,
                message.key(),
                message.value(),
                headers,
                received_at,
            )
            if partition in found:
                found[partition].append(record)
            else:
                found[partition] = [record]
        return Polled(found, gone)

    def _note(self, message: Message, gone: list[int]) -> None:
        """Keep what an error in place of a message says for the next poll that brings nothing."""
        error, partition = message.error(), message.partition()
        if error is None:
            return
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            if partition is not None:
                gone.append(partition)
        else:
            self._on_error(error)

    def seek(self, offsets: Mapping[int, int]) -> None:
        # The library's own seek is refused while a partition has nothing to fetch from.
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        with self._errors():
            self._consumer.incremental_unassign(self._places(list(offsets)))
            self._consumer.incremental_assign(places)

    def pause(self, partitions: Sequence[int]) -> None:
        with self._errors():
            self._consumer.pause(self._places(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        with self._errors():
            self._consumer.resume(self._places(partitions))

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        with self._errors():
            if wait:
                self._consumer.commit(offsets=places, asynchronous=False)
            else:
                self._consumer.commit(offsets=places, asynchronous=True)

    def metadata(self) -> Any:
        return self._consumer.consumer_group_metadata()

    def check(self) -> None:
        with self._errors():
            self._consumer.list_topics(self._topic, 2.0)
        self._raise_fault()

    def close(self) -> None:
        with self._errors():
            self._consumer.close()

    def _places(self, partitions: Sequence[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]

    def _offsets(self, places: Sequence[TopicPartition]) -> dict[int, int]:
        for place in places:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in places if place.offset >= 0}

    def _on_error(self, error: KafkaError) -> None:
        """Called by the library from within a call of ours."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._fault = SourceUnavailable(f"{self._topic}: no broker answers")
        elif error.code() in REFUSED:
            self._fault = self._refusal(error)
        else:
            logger.debug("client error", extra={"topic": self._topic, "why": error.str()})

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        if error is not None:
            logger.debug("offsets not committed", extra={"topic": self._topic, "why": error.str()})
        elif self._listener is not None:
            self._listener.committed({p.partition: p.offset for p in places if p.error is None})

    def _raise_fault(self) -> None:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _refusal(self, error: KafkaError) -> InvalidConfiguration:
        why = REFUSED[error.code()]
        found = f"{why} ({error.name()})"
        return InvalidConfiguration([Problem("", "topic", f"a topic that answers ({self._topic})", found)])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as raised:
            error = raised.args[0]
            if self._fault is not None and error.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):
                self._raise_fault()  # says more
            if error.code() in REFUSED:
                raise self._refusal(error) from raised
            if error.code() in (KafkaError._INVALID_ARG, KafkaError._CONFLICT):
                wanted = "a configuration that the client takes"
                raise InvalidConfiguration([Problem("", "client", wanted, error.str())]) from raised
            raise SourceUnavailable(f"{self._topic}: {error.name()}") from raised
