"""What a mapping gives up, at destinations that take one document a record. Time is virtual."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from millstream.contract.errors import DestinationUnavailable
from millstream.contract.ports import BatchLimits, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt, Discarded, Record
from millstream.contract.stream_trigger import RecordFailure
from millstream.contract.streams import StreamPolicy
from millstream.mappings.stream_delivery import AT_ONCE
from tests.fakes import FAILURE, FakeDestination
from tests.mappings.stream_rig import World, world
from tests.stream_fakes import FakeStreamTrigger, stream_record

ONCE = StreamPolicy(max_retries=0)


class SinglyTrigger(FakeStreamTrigger):
    """One whose records may be given up one by one; every other has a key."""

    def record_failure(self, record: Record) -> RecordFailure:
        number = int(record.position)
        return RecordFailure({"FakeBatchInfo": {"offset": number}}, b"k%d" % number if number % 2 else None)


@dataclass
class Topic(FakeDestination):
    """Takes one document a record, but none of those whose offset is in `refused`."""

    payload: Payload = Payload.RECORD
    refused: Sequence[int] = ()
    tried: int = 0
    keys: list[bytes | None] = field(default_factory=list)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        self.tried += 1
        if json.loads(record.body).get("FakeBatchInfo", {}).get("offset") in self.refused:
            raise DestinationUnavailable("fake: not this one")
        receipt = await super().deliver(record)
        self.keys.append(record.key)
        return receipt


def singly(count: int, topic: Topic, policy: StreamPolicy = ONCE) -> World:
    """A stream of so many records, all of which fail together."""
    it = world(*[stream_record(n) for n in range(count)], policy=policy, answer=lambda event: FAILURE)
    parts: Mapping[str, Any] = {each.name: getattr(it.trigger, each.name) for each in fields(it.trigger)}
    it.trigger = SinglyTrigger(**parts)
    it.destination = topic
    return it


def discarded(it: World) -> dict[int, str | None]:
    """Who holds each record that was given up."""
    return {
        int(record.position): verdict.receipt.accepted_by
        for resolution in it.observer.resolutions
        for record, verdict in zip(resolution.batch.records, resolution.verdicts, strict=True)
        if isinstance(verdict, Discarded)
    }


async def test_each_record_has_a_document_of_its_own_in_order() -> None:
    it = singly(4, Topic())
    async with it.running() as rig:
        await rig.until_at(3)
    assert [document["FakeBatchInfo"]["offset"] for document in it.failed] == [0, 1, 2, 3]
    events = [[record["n"] for record in document["payload"]["Records"]] for document in it.failed]
    assert events == [[0], [1], [2], [3]]


async def test_each_document_has_the_key_of_its_record() -> None:
    topic = Topic()
    it = singly(4, topic)
    async with it.running() as rig:
        await rig.until_at(3)
    assert topic.keys == [None, b"k1", None, b"k3"]


async def test_a_source_that_cannot_tell_singly_gives_one_plain_document_under_its_partition() -> None:
    it = world(stream_record(0), stream_record(1), policy=ONCE, answer=lambda event: FAILURE)
    topic = it.destination = Topic()
    async with it.running() as rig:
        await rig.until_at(1)
    (document,) = it.failed
    assert document["FakeBatchInfo"]["batchSize"] == 2
    assert document["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert "payload" not in document
    assert topic.keys == [b"p"]


async def test_what_is_too_large_for_the_destination_goes_without_its_payload() -> None:
    it = singly(2, Topic(limit_bytes=600))
    it.stream.parts["p"].records[1] = stream_record(1, size=1000)
    async with it.running() as rig:
        await rig.until_at(1)
    assert ["payload" in document for document in it.failed] == [True, False]


async def test_only_what_the_destination_does_not_take_is_dropped() -> None:
    it = singly(4, Topic(refused=(1, 2)))
    async with it.running() as rig:
        await rig.until_at(3)
    assert discarded(it) == {0: "fake", 1: None, 2: None, 3: "fake"}
    assert it.observer.dropped == 2


async def test_only_what_was_not_taken_is_delivered_again_where_it_must_be() -> None:
    topic = Topic(refused=(1,))
    it = singly(3, topic, StreamPolicy(max_retries=0, on_failure_required=True))
    async with it.running() as rig:
        await it.clock.advance(30.0)
        assert (it.cursor, topic.tried > 3) == (0, True)
        topic.refused = ()
        await rig.until_at(2)
    assert [document["FakeBatchInfo"]["offset"] for document in it.failed] == [0, 2, 1]
    assert it.observer.dropped == 0


async def test_a_destination_that_takes_nothing_is_not_asked_for_each_record() -> None:
    count = 3 * AT_ONCE
    topic = Topic(refused=range(count))
    it = singly(count, topic)
    it.trigger = SinglyTrigger(it.stream, BatchLimits(count, 0.0), ONCE)
    async with it.running() as rig:
        await rig.until_at(count - 1)
    assert topic.tried == AT_ONCE
    assert it.observer.dropped == count
