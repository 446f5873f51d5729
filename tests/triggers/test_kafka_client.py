"""What a client library must do for us on Apache Kafka, asked of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import pytest

from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Record
from millstream.kafka.access import Access
from millstream.triggers.kafka_client import Client, GroupSettings, Listener, new_client
from millstream.triggers.kafka_confluent import ConfluentClient
from millstream.triggers.kafka_records import RecordMaker
from tests.brokers.kafka import Kafka
from tests.triggers.kafka_rig import WITHIN_S, numbered, offsets, produce

LIBRARIES = ["confluent", "kafka-python"]


class Told:
    """Implements Listener: each partition begins at its first record, and is let go at once."""

    identity = None

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 0)

    def revoking(self, partitions: Sequence[int]) -> threading.Event:
        done = threading.Event()
        done.set()
        return done

    def offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        return {}

    def revoked(self, partitions: Sequence[int]) -> None: ...

    def lost(self, partitions: Sequence[int]) -> None: ...

    def committed(self, offsets: Mapping[int, int]) -> None: ...


@contextmanager
def joined(library: str, bootstrap: str, topic: str, listener: Listener | None = None) -> Iterator[Client]:
    settings = GroupSettings(topic, f"g-{topic}", None, 6.0, 6.0, True)
    client = new_client(library, settings, Access(bootstrap), RecordMaker(topic))
    client.subscribe(listener or Told())
    try:
        yield client
    finally:
        client.close()


def read(client: Client, count: int) -> list[Record]:
    """So many records of partition 0."""
    found: list[Record] = []
    until = time.monotonic() + WITHIN_S
    while len(found) < count:
        assert time.monotonic() < until
        try:
            found += client.poll(100, 0.1).records.get(0, [])
        except SourceUnavailable:
            continue  # as the member does: it is told, and polls on
    return found


@pytest.mark.broker
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_partition_that_was_passed_over_is_read_from_where_it_is_sought(kafka: Kafka, library: str) -> None:
    topic = kafka.create_topic(1)
    produce(kafka.bootstrap, topic, 0, numbered(0, 5))
    with joined(library, kafka.bootstrap, topic) as client:
        assert offsets(read(client, 5)) == [*range(5)]
        client.pause([0])
        client.seek({0: 2})
        assert offsets(read(client, 3)) == [2, 3, 4]


@pytest.mark.parametrize("session_timeout_s", [1.0, 10.0, 301.0, 1800.0])
def test_librdkafka_takes_every_session_timeout_that_can_be_declared(session_timeout_s: float) -> None:
    settings = GroupSettings("t", "g", None, session_timeout_s, session_timeout_s, True)
    ConfluentClient(settings, Access("127.0.0.1:1"), RecordMaker("t")).close()


class Waiting(Told):
    """A listener that cannot say yet where partitions begin."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.gone: list[int] = []

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.asked += partitions
        raise SourceUnavailable("the group's coordinator does not answer")

    def revoked(self, partitions: Sequence[int]) -> None:
        self.gone += partitions


@pytest.mark.broker
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_partition_is_given_up_though_it_is_not_known_where_it_begins(kafka: Kafka, library: str) -> None:
    topic, waiting = kafka.create_topic(2), Waiting()
    produce(kafka.bootstrap, topic, 0, numbered(0, 5))
    produce(kafka.bootstrap, topic, 1, numbered(0, 5))
    with joined(library, kafka.bootstrap, topic, waiting) as first:
        until = time.monotonic() + WITHIN_S
        poll_until(first, lambda: set(waiting.asked) >= {0, 1}, until)
        with joined(library, kafka.bootstrap, topic) as second:
            found: list[Record] = []
            while not found:
                poll_until(first, lambda: True, until)
                with suppress(SourceUnavailable):
                    found += [record for each in second.poll(100, 0.1).records.values() for record in each]
            assert len(waiting.gone) > 0


def poll_until(client: Client, enough: Callable[[], bool], until: float) -> None:
    """Poll once at least."""
    while True:
        assert time.monotonic() < until
        with suppress(SourceUnavailable):
            client.poll(100, 0.1)
        if enough():
            return
