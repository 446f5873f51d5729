"""A member of a group whose broker goes away: who is told, and when the membership ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Queue

import pytest

from millstream.contract.errors import SourceUnavailable
from millstream.contract.functions import Success
from millstream.contract.groups import Assigned
from millstream.contract.records import Reason, Record
from millstream.contract.streams import Oldest
from millstream.triggers import kafka_member
from millstream.triggers.kafka_client import Cursor, Listener, Polled, Transactions
from millstream.triggers.kafka_member import Member
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_starts import Starts
from millstream.triggers.kafka_unreadable import TRIES

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


class NoTransactions:
    """Implements Transactions, of which there are none yet."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    async def take(self, records: Sequence[Record], answer: Success) -> str | None:
        return None

    def forget(self, partition: int) -> bool:
        return True

    async def commit(self, partition: int, position: int) -> None: ...

    def belong(self, member: object, identity: str | None) -> None: ...

    def begin(self, partitions: Sequence[int]) -> None:
        self.begun += partitions

    def end(self, partition: int) -> None: ...

    async def aclose(self) -> None: ...


@contextmanager
def member(
    client: ScriptedClient, transactions: Transactions | None = None
) -> Iterator[tuple[Member, threading.Event]]:
    """One whose thread runs, and what it sets whenever it has something to tell."""
    told = threading.Event()
    made = Member(client, Oldest(), 1.0, RecordMaker("t"), told.set, transactions)
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


def assign(client: ScriptedClient, it: Member, told: threading.Event) -> None:
    client.to_assign = [0]
    client.polls.put(NOTHING)
    hear(told)
    assert it.change() == Assigned(["t-0"], 1)


def made(*offsets: int) -> list[Record]:
    make = RecordMaker("t").record
    return [make(0, offset, "CREATE_TIME", 0, None, b"", None, 0.0) for offset in offsets]


def test_after_a_poll_that_failed_all_that_no_reader_has_is_sought_again() -> None:
    client = ScriptedClient()
    with member(client) as (it, told):
        assign(client, it, told)
        client.polls.put(Polled({0: made(0, 1, 2)}))
        hear(told)
        assert it.take([(0, 1)], 2) == made(0, 1)
        client.polls.put(AWAY)
        hear(told)
        client.polls.put(Polled({0: made(2, 3)}))
        hear(told)
        assert client.sought == [{0: 2}]
        assert it.take([(0, 1)], 10) == made(2, 3)


def test_a_record_that_is_not_read_in_several_tries_is_given_up_and_the_next_is_sought() -> None:
    client = ScriptedClient()
    with member(client) as (it, told):
        assign(client, it, told)
        client.polls.put(Polled({0: made(0)}))
        hear(told)
        for _ in range(TRIES):
            client.polls.put(Polled({}, unreadable={0: "_BAD_COMPRESSION"}))
        hear(told)
        client.polls.put(Polled({}, unreadable={0: "_BAD_COMPRESSION"}))
        hear(told)
        client.polls.put(Polled({0: made(3)}))
        hear(told)
        found = it.take([(0, 1)], 10)
        gone = Reason.DESERIALIZATION_ERROR
        assert [(int(record.position), record.refused) for record in found] == [
            (0, None),
            (1, gone),
            (2, gone),
            (3, None),
        ]
        assert client.sought == [{0: 2}, {0: 3}]


def test_what_comes_after_a_quiet_time_is_not_handed_over_if_the_topic_is_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_member, "QUIET_S", 0.0)
    client = ScriptedClient()
    with member(client) as (it, told):
        assign(client, it, told)
        client.polls.put(Polled({0: made(0)}))
        hear(told)
        assert it.take([(0, 1)], 10) == made(0)
        client.topic = "second"
        client.polls.put(Polled({0: made(1)}))
        assert it.over.wait(WITHIN_S)
        assert it.take([(0, 1)], 10) == []
        with pytest.raises(SourceUnavailable, match="made anew"):
            it.change()


def test_a_topic_that_is_another_one_ends_the_membership(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_member, "IDENTITY_S", 0.0)
    client = ScriptedClient()
    with member(client) as (it, told):
        assign(client, it, told)
        client.topic = None  # the cluster does not say
        client.polls.put(NOTHING)
        client.polls.put(NOTHING)
        client.topic = "second"
        client.polls.put(NOTHING)
        assert it.over.wait(WITHIN_S)
        with pytest.raises(SourceUnavailable, match="made anew"):
            it.change()


@pytest.mark.parametrize(
    ("cursor", "start"),
    [
        (Cursor(7, "first"), 7),
        (Cursor(7, None), 7),
        (Cursor(7, "another"), 0),
        (None, 0),
    ],
)
def test_cursors_of_another_topic_are_not_gone_on_from(cursor: Cursor | None, start: int) -> None:
    client = ScriptedClient()
    client.cursors = {} if cursor is None else {0: cursor}
    starts = Starts(client, Oldest(), "t")
    assert starts.of([0]).all == {0: start}


def test_where_a_partition_begins_is_the_groups_cursor_at_once() -> None:
    client = ScriptedClient()
    with member(client) as (it, told):
        assign(client, it, told)
    assert client.written == {0: Cursor(0, "first")}


@pytest.mark.parametrize(
    ("cursor", "written"),
    [
        (None, {0: Cursor(0, "first")}),
        (Cursor(7, "another"), {0: Cursor(0, "first")}),
        (Cursor(7, "first"), {}),
    ],
)
def test_beside_transactions_nothing_is_committed_but_where_the_group_begins(
    cursor: Cursor | None, written: dict[int, Cursor]
) -> None:
    """Whatever is committed later than that might come behind a transaction, and lead the group back."""
    client, transactions = ScriptedClient(), NoTransactions()
    client.cursors = {} if cursor is None else {0: cursor}
    with member(client, transactions) as (it, told):
        assign(client, it, told)
        assert transactions.begun == [0]
        assert client.written == written
        client.written.clear()
        first = 7 if written == {} else 0
        client.polls.put(Polled({0: made(first)}, ends={0: first + 9}))  # markers are behind the record
        hear(told)
        assert len(it.take([(0, 1)], 10)) == 1
        it.buffers.passed(0, 1, first + 1)
    assert client.written == {}


def test_a_log_that_was_cut_off_behind_what_is_in_flight_ends_the_membership() -> None:
    client = ScriptedClient()
    with member(client) as (it, told):
        assign(client, it, told)
        client.polls.put(Polled({0: made(5)}))
        hear(told)
        it.take([(0, 1)], 10)
        client.polls.put(Polled({}, out_of_range=[0]))
        assert it.over.wait(WITHIN_S)
        with pytest.raises(SourceUnavailable, match="cut off"):
            it.change()
