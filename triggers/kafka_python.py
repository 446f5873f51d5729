"""The client in pure Python, kafka-python: the one that always works."""

from __future__ import annotations

import logging
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.net.selector import KernelEvent
from kafka.structs import OffsetAndMetadata

from millstream.contract.errors import Refused, SourceUnavailable
from millstream.kafka.access import Access
from millstream.kafka.libraries import KAFKA_PYTHON
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
from millstream.triggers.kafka_decoding import TolerantRecords
from millstream.triggers.kafka_python_errors import OutOfRange, configured, python_errors
from millstream.triggers.kafka_python_messages import PythonMessages
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_starts import Ended
from millstream.triggers.kafka_unreadable import Unreadable

logger = logging.getLogger(__name__)
logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters comes as an error of ours

LEAST_WAIT_S = 1.0
"""How long a poll waits at least. One that ends within a rebalance leaves the library in it: it then
refuses commits."""

TICK_S = 0.02
"""How often the library's own loop looks whether revoked partitions are finished."""


class KafkaPythonClient:
    """Implements Client."""

    name = KAFKA_PYTHON

    def __init__(self, settings: GroupSettings, access: Access, maker: RecordMaker) -> None:
        self._topic = settings.topic
        self._messages = PythonMessages(maker)
        self._drain_s = settings.drain_s
        self._listener: Listener | None = None
        self._fresh: set[int] = set()  # assigned, and not yet told where to begin
        self._lock = threading.Lock()
        session_ms = int(settings.session_timeout_s * 1000)
        heartbeat_ms = min(3000, session_ms // 3)
        with python_errors(self._topic), configured():
            self._consumer = KafkaConsumer(
                client_id="millstream",
                group_id=settings.group_id,
                group_instance_id=settings.instance_id,
                session_timeout_ms=session_ms,
                heartbeat_interval_ms=heartbeat_ms,
                max_poll_interval_ms=int(poll_interval_s(settings.session_timeout_s) * 1000),
                reconnect_backoff_max_ms=heartbeat_ms,  # half a minute by default: longer than a session
                partition_assignment_strategy=[CooperativeStickyAssignor],
                isolation_level="read_committed" if settings.read_committed else "read_uncommitted",
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                metadata_max_age_ms=int(METADATA_S * 1000),
                fetch_max_bytes=settings.prefetch_bytes,
                fetch_max_wait_ms=100,  # half a second by default, which a partition that is resumed waits
                bootstrap_timeout_ms=int(CALL_S * 1000),
                **access.for_kafka_python(),
            )
        self._consumer._fetcher.PartitionRecords = partial(TolerantRecords, spoilt=Unreadable())

    def partitions(self) -> Sequence[int]:
        with python_errors(self._topic):
            found = self._consumer.partitions_for_topic(self._topic)
        if not found:
            self.committed([0])  # refused, where there is one that is not for us
            raise Refused(f"{self._topic}: there is no such topic")
        return sorted(found)

    def identity(self) -> str | None:
        cluster = self._consumer._cluster
        cluster.add_topic(self._topic)
        with python_errors(self._topic):
            self._consumer._net.run(self._consumer._manager.wait_for, cluster.request_update(), _LOOK_MS)
        found = cluster.topic_id(self._topic)
        return (
            urlsafe_b64encode(found.bytes).decode().rstrip("=") if found is not None and found.int else None
        )

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Cursor]:
        asked = {partition: self._place(partition) for partition in partitions}
        with python_errors(self._topic):
            found = {
                partition: self._consumer.committed(place, metadata=True, timeout_ms=_CALL_MS)
                for partition, place in asked.items()
            }
        return {p: Cursor(at.offset, identity_in(at.metadata)) for p, at in found.items() if at is not None}

    def bounds(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        places = [self._place(partition) for partition in partitions]
        with python_errors(self._topic):
            oldest = self._consumer.beginning_offsets(places, timeout_ms=_CALL_MS)
            ends = self._consumer.end_offsets(places, timeout_ms=_CALL_MS)
        return {place.partition: (oldest[place], ends[place]) for place in places}

    def at(self, partitions: Sequence[int], timestamp_s: float) -> Mapping[int, int]:
        asked = {self._place(partition): int(timestamp_s * 1000) for partition in partitions}
        with python_errors(self._topic):
            found = self._consumer.offsets_for_times(asked, timeout_ms=_CALL_MS)
        known = {place.partition: at.offset for place, at in found.items() if at is not None}
        behind = [partition for partition in partitions if partition not in known]
        return {**known, **{p: ends[1] for p, ends in self.bounds(behind).items()}}

    def subscribe(self, listener: Listener) -> None:
        self._listener = listener
        with python_errors(self._topic):
            self._consumer.subscribe([self._topic], listener=_Rebalances(self, listener))

    def poll(self, limit: int, wait_s: float) -> Polled:
        unavailable = self._begin_fresh()
        self._unpark()
        try:
            with python_errors(self._topic):
                wait_ms = int(max(wait_s, LEAST_WAIT_S) * 1000)
                found = self._consumer.poll(timeout_ms=wait_ms, max_records=limit)
        except OutOfRange as out:
            return Polled({}, out.partitions)
        except SourceUnavailable:
            self._consumer._fetcher._next_partition_records = None  # it would bring nothing any more
            raise
        if not found and unavailable is not None:
            raise unavailable
        ends = self._positions()
        return Polled(self._messages.records(found), ends=ends)

    def _positions(self) -> dict[int, int]:
        """Return how far partitions are read, offsets without a record included."""
        places = self._consumer._subscription.assignment
        found = {place.partition: places[place].position for place in list(places)}
        return {partition: position.offset for partition, position in found.items() if position is not None}

    def _begin_fresh(self) -> SourceUnavailable | None:
        """Say where new partitions begin. Not in the library's own loop, where nothing may be asked.

        Returns why nobody can say that now. What else is assigned is read on meanwhile.
        """
        with self._lock:
            fresh, self._fresh = sorted(self._fresh), set()
        if not fresh or self._listener is None:
            return None
        try:
            starts = self._listener.assigned(fresh)
        except BaseException as raised:
            with self._lock:
                self._fresh.update(fresh)
            if isinstance(raised, SourceUnavailable) and not isinstance(raised, Ended):
                return raised
            raise
        self.seek(starts)
        return None

    def seek(self, offsets: Mapping[int, int]) -> None:
        assigned = self._assigned()
        with python_errors(self._topic):
            for partition, offset in offsets.items():
                if partition in assigned:
                    self._consumer.seek(self._place(partition), offset)
                    self._consumer.resume(self._place(partition))

    def pause(self, partitions: Sequence[int]) -> None:
        with python_errors(self._topic):
            self._consumer.pause(*self._places(partitions))

    def resume(self, partitions: Sequence[int]) -> None:
        with python_errors(self._topic):
            self._consumer.resume(*self._places(partitions))

    def _unpark(self) -> None:
        """Have the library bring what it has set aside of paused partitions.

        The library (3.0) looks for it only where no other partition's records are in their place, and
        leaves the last ones there, used up, until something else arrives.
        """
        fetcher = self._consumer._fetcher
        if not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def commit(self, offsets: Mapping[int, int], identity: str | None, *, wait: bool) -> None:
        written = _written(self._topic, offsets, identity)
        with python_errors(self._topic):
            if wait:
                self._consumer.commit(written, timeout_ms=_CALL_MS)
            else:
                self._consumer.commit_async(written, callback=self._on_commit)
        if wait and self._listener is not None:
            self._listener.committed(offsets)

    def metadata(self) -> Any:
        return self._consumer.group_metadata()

    def check(self) -> None:
        with python_errors(self._topic):
            self._consumer.end_offsets([self._place(0)], timeout_ms=_LOOK_MS)

    def close(self) -> None:
        with python_errors(self._topic):
            self._consumer.close(autocommit=False, timeout_ms=_CALL_MS)

    def _assigned(self) -> set[int]:
        return {place.partition for place in self._consumer.assignment()}

    def _places(self, partitions: Sequence[int]) -> list[TopicPartition]:
        """Return the partitions among these that are still assigned."""
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
                await self._consumer.commit_async(_written(self._topic, offsets, listener.identity))
            except kafka_errors.KafkaError as error:
                logger.warning(NOT_COMMITTED, extra={"topic": self._topic, "why": type(error).__name__})
        listener.revoked(partitions)


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
_LOOK_MS = int(LOOK_S * 1000)


def _written(
    topic: str, offsets: Mapping[int, int], identity: str | None
) -> dict[TopicPartition, OffsetAndMetadata]:
    mark = written_for(identity)
    return {TopicPartition(topic, p): OffsetAndMetadata(at, mark, -1) for p, at in offsets.items()}
