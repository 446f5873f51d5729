"""The client on librdkafka, through confluent-kafka: the fast one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from millstream.contract.errors import (
    InvalidConfiguration,
    MillstreamError,
    Problem,
    Refused,
    SourceUnavailable,
)
from millstream.contract.seldom import Seldom
from millstream.kafka.access import Access
from millstream.kafka.libraries import CONFLUENT
from millstream.triggers.kafka_client import (
    CALL_S,
    LOOK_S,
    MARGIN_S,
    METADATA_S,
    NOT_COMMITTED,
    Cursor,
    GroupSettings,
    Listener,
    Polled,
    identity_in,
    poll_interval_s,
    written_for,
)
from millstream.triggers.kafka_confluent_errors import (
    NO_ANSWER,
    OF_ONE_BROKER,
    REFUSED,
    text_of,
)
from millstream.triggers.kafka_messages import Messages
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_starts import Ended

logger = logging.getLogger(__name__)

_URL_SAFE = str.maketrans("+/", "-_")  # as everyone else writes ids


class ConfluentClient:
    """Implements Client."""

    name = CONFLUENT

    def __init__(self, settings: GroupSettings, access: Access, maker: RecordMaker) -> None:
        self._topic = settings.topic
        self._messages = Messages(maker, self._on_error)
        self._drain_s = settings.drain_s
        self._listener: Listener | None = None
        self._fresh: set[int] = set()  # assigned, and not yet told where to begin
        self._fault: SourceUnavailable | Refused | None = None
        self._refusal: Refused | None = None  # by one broker; the others may let us in
        self._seldom = Seldom()
        self._access = access
        heartbeat_ms = min(3000, int(settings.session_timeout_s * 1000 / 3))
        configuration = access.for_librdkafka() | {
            "client.id": "millstream",
            "group.id": settings.group_id,
            "session.timeout.ms": int(settings.session_timeout_s * 1000),
            "heartbeat.interval.ms": heartbeat_ms,
            "max.poll.interval.ms": int(poll_interval_s(settings.session_timeout_s) * 1000),
            "reconnect.backoff.max.ms": heartbeat_ms,  # ten seconds by default, which may be a session
            "partition.assignment.strategy": "cooperative-sticky",
            "isolation.level": "read_committed" if settings.read_committed else "read_uncommitted",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "topic.metadata.refresh.interval.ms": int(METADATA_S * 1000),
            "fetch.queue.backoff.ms": 2,  # a second by default, for which a small queue stands still
            "queued.max.messages.kbytes": settings.prefetch_bytes // 1024,
            "fetch.max.bytes": settings.prefetch_bytes,
            "enable.partition.eof": True,  # tells what lies behind the last record: markers of transactions
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            "log_level": 0,  # what matters comes as an error
        }
        if settings.instance_id is not None:
            configuration["group.instance.id"] = settings.instance_id
        try:
            self._consumer = Consumer(configuration)
        except KafkaException as raised:
            wanted = "a configuration that the client takes"
            raise InvalidConfiguration([Problem("", "client", wanted, text_of(raised.args[0]))]) from raised

    def partitions(self) -> Sequence[int]:
        with self._errors():
            found = self._consumer.list_topics(self._topic, CALL_S).topics[self._topic]
            if found.error is not None:
                raise KafkaException(found.error)
        return sorted(found.partitions)

    def identity(self) -> str | None:
        asked = TopicCollection([self._topic])
        with self._errors():
            found = self._admin.describe_topics(asked, request_timeout=LOOK_S)[self._topic].result(CALL_S)
        bits = found.topic_id.get_most_significant_bits(), found.topic_id.get_least_significant_bits()
        return str(found.topic_id).translate(_URL_SAFE) if any(bits) else None

    @cached_property
    def _admin(self) -> AdminClient:
        """Asks what a consumer cannot ask; made with the first question."""
        return AdminClient(self._access.for_librdkafka() | {"client.id": "millstream", "log_level": 0})

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Cursor]:
        with self._errors():
            found = self._consumer.committed(self._places(partitions), CALL_S)
        return {
            partition: Cursor(offset, _identity_of(found, partition))
            for partition, offset in self._offsets(found).items()
        }

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
            begun = self._begun(places)
            self._let_go([place.partition for place in places], listener)
            consumer.incremental_unassign(begun)

        def lost(consumer: Consumer, places: list[TopicPartition]) -> None:
            begun = self._begun(places)
            listener.lost([place.partition for place in places])
            consumer.incremental_unassign(begun)

        with self._errors():
            self._consumer.subscribe([self._topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def _let_go(self, partitions: Sequence[int], listener: Listener) -> None:
        listener.revoking(partitions).wait(self._drain_s + MARGIN_S)
        if offsets := listener.offsets(partitions):
            try:
                self.commit(offsets, listener.identity, wait=True)
            except MillstreamError as error:
                logger.warning(NOT_COMMITTED, extra={"topic": self._topic, "why": str(error)})
        listener.revoked(partitions)

    def _begun(self, places: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Return the partitions whose beginning the library was told; it refuses to unassign any others."""
        fresh = self._fresh & {place.partition for place in places}
        self._fresh -= fresh
        return [place for place in places if place.partition not in fresh]

    def _begin_fresh(self) -> SourceUnavailable | None:
        """Say where new partitions begin. Not in the library's callback, which cannot fail.

        Returns why nobody can say that now. What else is assigned is read on, and given up, meanwhile.
        """
        if not self._fresh or self._listener is None:
            return None
        try:
            starts = self._listener.assigned(sorted(self._fresh))
        except Ended:
            raise
        except SourceUnavailable as unavailable:
            return unavailable
        self._fresh.clear()
        with self._errors():
            self._consumer.resume(
                self._places(list(starts))
            )  # a pause outlasts the assignment it was made in
            self._consumer.incremental_assign(self._places_at(starts))
        return None

    def poll(self, limit: int, wait_s: float) -> Polled:
        unavailable = self._begin_fresh()
        with self._errors():
            messages = self._consumer.consume(limit, 0)
            if not messages and (first := self._consumer.poll(wait_s)) is not None:
                messages = [first, *self._consumer.consume(limit - 1, 0)]
        if not messages:
            if unavailable is not None:
                raise unavailable
            self._raise_fault()
        found = self._messages.polled(messages)
        if found.records:
            self._refusal = None  # whoever it is that refuses us, we are let in
        return found

    def seek(self, offsets: Mapping[int, int]) -> None:
        # The library's own seek is refused while a partition has nothing to fetch from.
        with self._errors():
            self._consumer.resume(self._places(list(offsets)))
            self._consumer.incremental_unassign(self._places(list(offsets)))
            self._consumer.incremental_assign(self._places_at(offsets))

    def pause(self, partitions: Sequence[int]) -> None:
        with self._errors():
            self._consumer.pause(self._places(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        with self._errors():
            self._consumer.resume(self._places(partitions))

    def commit(self, offsets: Mapping[int, int], identity: str | None, *, wait: bool) -> None:
        mark = written_for(identity)
        places = [TopicPartition(self._topic, p, offset, metadata=mark) for p, offset in offsets.items()]
        with self._errors():
            if wait:
                self._consumer.commit(offsets=places, asynchronous=False)
            else:
                self._consumer.commit(offsets=places, asynchronous=True)

    def metadata(self) -> Any:
        return self._consumer.consumer_group_metadata()

    def check(self) -> None:
        with self._errors():
            self._consumer.list_topics(self._topic, LOOK_S)
        self._refusal = None  # another broker lets us in
        self._raise_fault()

    def close(self) -> None:
        self.__dict__.pop("_admin", None)
        with self._errors():
            self._consumer.close()

    def _places(self, partitions: Sequence[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]

    def _places_at(self, offsets: Mapping[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]

    def _offsets(self, places: Sequence[TopicPartition]) -> dict[int, int]:
        for place in places:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in places if place.offset >= 0}

    def _on_error(self, error: KafkaError) -> None:
        """Called by the library from within a call of ours, which drops records if this raises."""
        code = error.code()
        if code == KafkaError._ALL_BROKERS_DOWN:
            self._fault = self._refusal or SourceUnavailable(f"{self._topic}: no broker answers")
        elif code in OF_ONE_BROKER:
            self._refusal = self._refused(error)
            if self._seldom.due(code):
                extra = {"topic": self._topic, "why": REFUSED[code]}
                logger.warning("a broker refuses us, the others are asked", extra=extra)
        elif code in REFUSED:
            self._fault = self._refused(error)
        else:
            logger.debug("client error", extra={"topic": self._topic, "why": text_of(error)})

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        if error is not None:
            logger.debug("offsets not committed", extra={"topic": self._topic, "why": text_of(error)})
        elif self._listener is not None:
            self._listener.committed({p.partition: p.offset for p in places if p.error is None})

    def _raise_fault(self) -> None:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _refused(self, error: KafkaError) -> Refused:
        return Refused(f"{self._topic}: {REFUSED[error.code()]} ({error.name()})")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as raised:
            error = raised.args[0]
            if error.code() in NO_ANSWER:
                self._raise_fault()  # says more
                if self._refusal is not None:
                    raise self._refusal from raised
            if error.code() in REFUSED:
                raise self._refused(error) from raised
            raise SourceUnavailable(f"{self._topic}: {error.name()}") from raised
        except TimeoutError as raised:  # of what an administrator asks
            raise SourceUnavailable(f"{self._topic}: no answer") from raised


def _identity_of(places: Sequence[TopicPartition], partition: int) -> str | None:
    """The topic that a partition's cursor was written for."""
    try:
        return next(identity_in(place.metadata) for place in places if place.partition == partition)
    except UnicodeDecodeError:  # of another tool
        return None
