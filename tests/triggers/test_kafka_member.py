"""A member of a group whose broker goes away: who is told, and when the membership ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Queue

import pytest

from millstream.contract.errors import SourceUnavailable
from millstream.contract.groups import Assigned
from millstream.contract.streams import Oldest
from millstream.triggers.kafka_client import Cursor, Listener, Polled
from millstream.triggers.kafka_member import Member
from millstream.triggers.kafka_records import RecordMaker

WITHIN_S = 10.0
NOTHING = Polled({})
AWAY = SourceUnavailable("t: no broker answers")


class ScriptedClient:
    """Implements Client: each poll brings what the test puts into `polls`, and raises what is an error."""

    name = "scripted"

    def __init__(self) -> None:
        self.polls: Queue[Polled | SourceUnavailable] = Queue()
        self.to_assign: list[int] = []
        self.topic: str | None = "first"
        self.cursors: dict[int, Cursor] = {}
        self.written: dict[int, Cursor] = {}
        self.sought: list[Mapping[int, int]] = []
        self.listener: Listener | None = None

    def partitions(self) -> Sequence[int]:
        return [0]

    def identity(self) -> str | None:
        return self.topic

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Cursor]:
        return {partition: self.cursors[partition] for partition in partitions if partition in self.cursors}

    def bounds(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        return dict.fromkeys(partitions, (0, 0))

    def at(self, partitions: Sequence[int], timestamp_s: float) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 0)

    def subscribe(self, listener: Listener) -> None:
        self.listener = listener

    def poll(self, limit: int, wait_s: float) -> Polled:
        found = self.polls.get(timeout=WITHIN_S)
        if isinstance(found, SourceUnavailable):
            raise found
        if self.to_assign and self.listener is not None:
            self.listener.assigned(self.to_assign)
            self.to_assign = []
        return found

    def seek(self, offsets: Mapping[int, int]) -> None:
        self.sought.append(dict(offsets))

    def pause(self, partitions: Sequence[int]) -> None: ...

    def resume(self, partitions: Sequence[int]) -> None: ...

    def commit(self, offsets: Mapping[int, int], identity: str | None, *, wait: bool) -> None:
        self.written |= {partition: Cursor(offset, identity) for partition, offset in offsets.items()}

    def metadata(self) -> object:
        return None

    def check(self) -> None: ...

    def close(self) -> None: ...


@contextmanager
def member(client: ScriptedClient) -> Iterator[tuple[Member, threading.Event]]:
    """One whose thread runs, and what it sets whenever it has something to tell."""
    told = threading.Event()
    made = Member(client, Oldest(), 1.0, RecordMaker("t"), told.set)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made, told
    finally:
        made.close()
        client.polls.put(NOTHING)
        thread.join(WITHIN_S)
        assert not thread.is_alive()


def hear(told: threading.Event) -> None:
    assert told.wait(WITHIN_S)
    told.clear()


def test_a_membership_without_partitions_ends_when_the_broker_stays_away() -> None:
    client = ScriptedClient()
    with member(client) as (it, told):
        client.polls.put(AWAY)
        hear(told)
        assert it.change() is None
        client.polls.put(AWAY)
        assert it.over.wait(WITHIN_S)
        with pytest.raises(SourceUnavailable, match="no broker answers"):
            it.change()


def test_a_membership_with_partitions_outlasts_an_outage_and_its_reader_is_told() -> None:
    client = ScriptedClient()
    with member(client) as (it, told):
        client.to_assign = [0]
        client.polls.put(NOTHING)
        hear(told)
        assert it.change() == Assigned(["t-0"], 1)
        for _ in range(3):
            client.polls.put(AWAY)
        hear(told)
        with pytest.raises(SourceUnavailable, match="no broker answers"):
            it.take([(0, 1)], 10)
        record = RecordMaker("t").record(0, 0, "CREATE_TIME", 0, None, b"", None, 0.0)
        client.polls.put(Polled({0: [record]}))
        hear(told)
        assert it.take([(0, 1)], 10) == [record]
        assert it.change() is None
