"""The client in pure Python, kafka-python: the one that always works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.selector import KernelEvent
from kafka.structs import OffsetAndMetadata

from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.records import Record
from millstream.kafka.access import Access
from millstream.kafka.libraries import KAFKA_PYTHON
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
logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters comes as an error of ours

LEAST_WAIT_S = 1.0
"""How long a poll waits at least. One that ends within a rebalance leaves the library in it: it then
refuses commits."""

TICK_S = 0.02
"""How often the library's own loop looks whether revoked partitions are finished."""

REFUSED: dict[type[Exception], str] = {
    kafka_errors.SaslAuthenticationFailedError: "SASL authentication failed",
    kafka_errors.UnsupportedSaslMechanismError: "SASL authentication failed",
    kafka_errors.AuthorizationError: "Cluster failed to authorize Lambda",
    kafka_errors.UnknownTopicOrPartitionError: "there is no such topic",
    kafka_errors.InvalidTopicError: "there is no such topic",
    kafka_errors.FencedInstanceIdError: "another member has this group_instance_id",
    kafka_errors.InconsistentGroupProtocolError: (
        "the group's other members assign partitions in another way"
    ),
}
"""What no retry mends, in AWS's words where it has some.

Source: AWS, "Troubleshooting self-managed Apache Kafka event source mapping errors".
"""


class KafkaPythonClient:
    """Implements Client."""

    name = KAFKA_PYTHON

    def __init__(self, settings: GroupSettings, access: Access, maker: RecordMaker) -> None:
        self._topic = settings.topic
        self._maker = maker
        self._drain_s = settings.drain_s
        self._listener: Listener | None = None
        self._fresh: set[int] = set()  # assigned, and not yet told where to begin
        self._lock = threading.Lock()
        session_ms = int(settings.session_timeout_s * 1000)
        heartbeat_ms = min(3000, session_ms // 3)
        with self._errors():
            self._consumer = KafkaConsumer(
                client_id="millstream",
                group_id=settings.group_id,
                group_instance_id=settings.instance_id,
                session_timeout_ms=session_ms,
                heartbeat_interval_ms=heartbeat_ms,
                reconnect_backoff_max_ms=heartbeat_ms,  # half a minute by default: longer than a session
                partition_assignment_strategy=[CooperativeStickyAssignor],
                isolation_level="read_committed" if settings.read_committed else "read_uncommitted",
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                metadata_max_age_ms=int(METADATA_S * 1000),
                fetch_max_bytes=PREFETCH_BYTES,
                fetch_max_wait_ms=100,  # half a second by default, which a partition that is resumed waits
                bootstrap_timeout_ms=int(CALL_S * 1000),
                **access.for_kafka_python(),
            )

    def partitions(self) -> Sequence[int]:
        with self._errors():
            found = self._consumer.partitions_for_topic(self._topic)
        if not found:
            self.committed([0])  # refused, where there is one that is not for us
            raise self._refusal("there is no such topic")
        return sorted(found)

    def committed(self, partitions: Sequence[int]) -> Mapping[int, int]:
        with self._errors():
            found = {p: self._consumer.committed(self._place(p), timeout_ms=_CALL_MS) for p in partitions}
        return {p: offset for p, offset in found.items() if offset is not None}

    def bounds(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        places = [self._place(partition) for partition in partitions]
        with self._errors():
            oldest = self._consumer.beginning_offsets(places, timeout_ms=_CALL_MS)
            ends = self._consumer.end_offsets(places, timeout_ms=_CALL_MS)
        return {place.partition: (oldest[place], ends[place]) for place in places}

    def at(self, partitions: Sequence[int], timestamp_s: float) -> Mapping[int, int]:
        asked = {self._place(partition): int(timestamp_s * 1000) for partition in partitions}
        with self._errors():
            found = self._consumer.offsets_for_times(asked, timeout_ms=_CALL_MS)
        known = {place.partition: at.offset for place, at in found.items() if at is not None}
        behind = [partition for partition in partitions if partition not in known]
        return {**known, **{p: ends[1] for p, ends in self.bounds(behind).items()}}

    def subscribe(self, listener: Listener) -> None:
        self._listener = listener
        with self._errors():
            self._consumer.subscribe([self._topic], listener=_Rebalances(self, listener))

    def poll(self, limit: int, wait_s: float) -> Polled:
        self._begin_fresh()
        self._unpark()
        try:
            with self._errors():
                wait_ms = int(max(wait_s, LEAST_WAIT_S) * 1000)
                found = self._consumer.poll(timeout_ms=wait_ms, max_records=limit)
        except _OutOfRange as out:
            return Polled({}, out.partitions)
        self._begin_fresh()
        received_at = time.time()
        return Polled(
            {place.partition: self._records(messages, received_at) for place, messages in found.items()}
        )

    def _records(self, messages: Sequence[Any], received_at: float) -> list[Record]:
        make = self._maker.record
        return [
            make(
                message.partition,
                message.offset,
                TIMESTAMP_TYPES.get(message.timestamp_type, TIMESTAMP_TYPES[0]),
                message.timestamp,
                message.key,
                message.value,
                message.headers,
                received_at,
            )
            for message in messages
        ]

    def _begin_fresh(self) -> None:
        """Say where new partitions begin. Not in the library's own loop, where nothing may be asked."""
        with self._lock:
            fresh, self._fresh = sorted(self._fresh), set()
        if not fresh or self._listener is None:
            return
        try:
            starts = self._listener.assigned(fresh)
        except BaseException:
            with self._lock:
                self._fresh.update(fresh)
            raise
        self.seek(starts)
        self.resume(list(starts))

    def seek(self, offsets: Mapping[int, int]) -> None:
        assigned = self._assigned()
        with self._errors():
            for partition, offset in offsets.items():
                if partition in assigned:
                    self._consumer.seek(self._place(partition), offset)

    def pause(self, partitions: Sequence[int]) -> None:
        with self._errors():
            self._consumer.pause(*self._places(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        with self._errors():
            self._consumer.resume(*self._places(partitions))

    def _unpark(self) -> None:
        """Have what was set aside of paused partitions brought again.

        The library (3.0) looks for it only where no other partition's records are in their place, and
        leaves the last ones there, used up, until something else arrives.
        """
        fetcher = self._consumer._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        written = _written(self._topic, offsets)
        with self._errors():
            if wait:
                self._consumer.commit(written, timeout_ms=_CALL_MS)
            else:
                self._consumer.commit_async(written, callback=self._on_commit)
        if wait and self._listener is not None:
            self._listener.committed(offsets)

    def metadata(self) -> Any:
        return self._consumer.group_metadata()

    def check(self) -> None:
        with self._errors():
            self._consumer.end_offsets([self._place(0)], timeout_ms=_CHECK_MS)

    def close(self) -> None:
        with self._errors():
            self._consumer.close(autocommit=False, timeout_ms=_CALL_MS)

    def _assigned(self) -> set[int]:
        return {place.partition for place in self._consumer.assignment()}

    def _places(self, partitions: Sequence[int]) -> list[TopicPartition]:
        """Those of them that are still assigned."""
        assigned = self._assigned()
        return [self._place(partition) for partition in partitions if partition in assigned]

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _on_commit(self, offsets: Mapping[Any, Any], answer: object) -> None:
        if isinstance(answer, Exception):
            logger.debug("offsets not committed", extra={"topic": self._topic, "why": str(answer)})
        elif self._listener is not None:
            self._listener.committed({place.partition: at.offset for place, at in offsets.items()})

    # ---- called in the library's own loop

    def take_fresh(self, partitions: Sequence[int]) -> None:
        """Note new partitions; they wait until the polling thread has said where they begin."""
        for partition in partitions:
            self._consumer.seek(self._place(partition), 0)
            self._consumer.pause(self._place(partition))
        with self._lock:
            self._fresh.update(partitions)

    def drop_fresh(self, partitions: Sequence[int]) -> None:
        with self._lock:
            self._fresh.difference_update(partitions)

    async def let_go(self, partitions: Sequence[int], listener: Listener) -> None:
        """Wait until they are finished, then commit them."""
        until = time.monotonic() + self._drain_s + MARGIN_S
        finished = listener.revoking(partitions)
        while not finished.is_set() and time.monotonic() < until:
            await KernelEvent("_sleep", TICK_S)
        if offsets := listener.offsets(partitions):
            try:
                await self._consumer.commit_async(_written(self._topic, offsets))
            except kafka_errors.KafkaError as error:
                logger.warning(NOT_COMMITTED, extra={"topic": self._topic, "why": type(error).__name__})
        listener.revoked(partitions)

    def _refusal(self, found: str) -> InvalidConfiguration:
        return InvalidConfiguration([Problem("", "topic", f"a topic that answers ({self._topic})", found)])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except kafka_errors.OffsetOutOfRangeError as raised:
            raise _OutOfRange([place.partition for place in raised.args[0]]) from raised
        except kafka_errors.KafkaConfigurationError as raised:
            wanted = "a configuration that the client takes"
            raise InvalidConfiguration([Problem("", "client", wanted, str(raised))]) from raised
        except kafka_errors.KafkaError as raised:
            for kind, why in REFUSED.items():
                if isinstance(raised, kind):
                    raise self._refusal(f"{why} ({type(raised).__name__})") from raised
            raise SourceUnavailable(f"{self._topic}: {type(raised).__name__}") from raised


class _OutOfRange(Exception):
    def __init__(self, partitions: Sequence[int]) -> None:
        super().__init__(f"out of range: {partitions}")
        self.partitions = partitions


class _Rebalances(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    """Called in the library's own loop, which sends the heartbeats."""

    def __init__(self, client: KafkaPythonClient, listener: Listener) -> None:
        self._client = client
        self._listener = listener

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        self._client.take_fresh([place.partition for place in assigned])

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        partitions = [place.partition for place in revoked]
        self._client.drop_fresh(partitions)
        await self._client.let_go(partitions, self._listener)

    async def on_partitions_lost(self, lost: set[Any]) -> None:
        partitions = [place.partition for place in lost]
        self._client.drop_fresh(partitions)
        self._listener.lost(partitions)


_CALL_MS = int(CALL_S * 1000)
_CHECK_MS = 2000


def _written(topic: str, offsets: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(topic, p): OffsetAndMetadata(at, "", -1) for p, at in offsets.items()}
