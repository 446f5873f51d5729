"""A member whose client fails at a bad moment: nothing is forgotten, left open, or written too late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from millstream.contract.blocking import BlockingClient
from millstream.contract.clock import SystemClock
from millstream.contract.errors import MillstreamError, Refused, SourceUnavailable
from millstream.contract.ports import Host
from millstream.contract.streams import Oldest
from millstream.triggers import kafka, kafka_member
from millstream.triggers.kafka_client import GroupSettings, Polled
from millstream.triggers.kafka_member import Member
from millstream.triggers.kafka_records import RecordMaker
from millstream.triggers.kafka_source import KafkaSource
from tests.fakes import FUNCTION, FakeFunction
from tests.triggers.test_kafka_member import (
    AWAY,
    NOTHING,
    WITHIN_S,
    ScriptedClient,
    assign,
    hear,
    made,
    member,
)


class Failing(ScriptedClient):
    """A client whose next calls of some kind fail."""

    def __init__(self) -> None:
        super().__init__()
        self.no_bounds = 0  # calls that are still to fail
        self.uncommitted: MillstreamError | None = None
        self.closed = False
        self.oldest = 0

    def bounds(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        if self.no_bounds:
            self.no_bounds -= 1
            raise AWAY
        return dict.fromkeys(partitions, (self.oldest, self.oldest))

    def commit(self, offsets: Mapping[int, int], identity: str | None, *, wait: bool) -> None:
        if self.uncommitted is not None:
            raise self.uncommitted
        super().commit(offsets, identity, wait=wait)

    def close(self) -> None:
        self.closed = True


def test_an_offset_out_of_range_is_not_forgotten_while_the_cluster_does_not_answer() -> None:
    client = Failing()
    with member(client) as (it, told):
        assign(client, it, told)
        client.oldest, client.no_bounds = 7, 2
        client.polls.put(Polled({}, out_of_range=[0]))  # the client says it once, and brings nothing any more
        hear(told)
        client.polls.put(NOTHING)
        client.polls.put(NOTHING)
        client.polls.put(Polled({0: made(7)}))
        hear(told)
        assert client.sought == [{0: 7}]
        assert it.take([(0, 1)], 10) == made(7)


@pytest.mark.parametrize("fault", [Refused("t: not ours any more"), SourceUnavailable("t: no answer")])
def test_a_client_is_closed_though_its_last_commit_fails(
    fault: MillstreamError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_member, "COMMIT_S", 1e6)
    client = Failing()
    with member(client) as (it, told):
        assign(client, it, told)
        it.commit(0, 1, 1)
        client.uncommitted = fault
        client.polls.put(NOTHING)
        it.close()
        client.polls.put(AWAY)
        assert it.over.wait(WITHIN_S)
    assert client.closed


class Uncatchable(BaseException):
    """As confluent-kafka raises its KafkaError out of a callback: no `except` meets it."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_membership_whose_thread_dies_of_anything_is_said_to_be_over() -> None:
    class Dying(Failing):
        def poll(self, limit: int, wait_s: float) -> Polled:
            raise Uncatchable

    client, told = Dying(), threading.Event()
    it = Member(client, Oldest(), 1.0, RecordMaker("t"), told.set)
    thread = threading.Thread(target=it.run)
    thread.start()
    thread.join(WITHIN_S)
    assert told.is_set()
    assert it.over.is_set()
    with pytest.raises(SourceUnavailable, match="t: the polling thread has failed"):
        it.change()
    assert client.closed


async def test_a_client_is_closed_though_no_thread_is_to_be_had_for_its_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client, calls = Failing(), BlockingClient("kafka-t", 1)
    settings = GroupSettings("t", "g", None, 6.0, 6.0, True)
    source = KafkaSource("kafka-t", client, RecordMaker("t"), calls, "t", settings)
    await source.mark()
    with monkeypatch.context() as short, pytest.raises(SourceUnavailable, match="thread"):
        short.setattr(threading.Thread, "start", refuse)
        await source.join(Oldest())
    async with asyncio.timeout(1.0):
        await source.aclose()
    assert client.closed


async def test_a_client_is_closed_that_connects_after_its_opening_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Failing):
        asked, goes_on, done = threading.Event(), threading.Event(), threading.Event()

        def partitions(self) -> Sequence[int]:
            self.asked.set()
            assert self.goes_on.wait(WITHIN_S)
            return [0]

        def close(self) -> None:
            self.done.set()

    client, clock = Slow(), SystemClock()
    monkeypatch.setattr(kafka, "admit", lambda _: None)
    monkeypatch.setattr(kafka, "new_client", lambda *_: client)
    options = {"topic": "t", "bootstrap_servers": "127.0.0.1:1", "starting_position": "LATEST"}
    host = Host(Path(), clock, FakeFunction(clock), mapping="m")
    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
        opening = group.create_task(kafka.KafkaTrigger.parse(options).open(host, FUNCTION))
        while not client.asked.is_set():
            await asyncio.sleep(0)
        opening.cancel()
    client.goes_on.set()
    assert client.done.wait(WITHIN_S)
