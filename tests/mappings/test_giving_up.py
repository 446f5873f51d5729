"""Giving up always succeeds: whatever records hold, and however little a destination takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge
from millstream.contract.ports import InvocationRecord, JsonObject, Payload, QueuePolicy
from millstream.contract.records import DestinationReceipt, Discarded, Reason, Record, Rejected, Returned
from millstream.contract.streams import StreamPolicy
from millstream.mappings.queue_delivery import QueueFailureDelivery
from tests.clock import VirtualClock
from tests.fakes import (
    FAILURE,
    FUNCTION,
    SUCCESS,
    FakeDestination,
    FakeObserver,
    FakeQueue,
    FakeTrigger,
    record,
)
from tests.mappings.queue_rig import rig
from tests.mappings.stream_rig import by_numbers, world
from tests.stream_fakes import FakeStreamTrigger, stream_record

ONCE = QueuePolicy(max_retries=0)


@dataclass
class Narrow(FakeDestination):
    """Takes no document above a size that it does not tell, as a queue with a limit of its own."""

    takes_bytes: int = 1 << 30
    sent: list[int] = field(default_factory=list)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        self.sent.append(record.size_bytes)
        if record.size_bytes > self.takes_bytes:
            raise DocumentTooLarge(f"{self.name} takes {self.takes_bytes} bytes, not {record.size_bytes}")
        return await super().deliver(record)


class Raising(FakeDestination):
    """A plugin with a fault."""

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        raise ZeroDivisionError


@dataclass(frozen=True)
class Untellable(FakeTrigger):
    """A trigger whose part of a document cannot be made."""

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        raise OverflowError("a year beyond 9999")


class UntellableStream(FakeStreamTrigger):
    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        raise OverflowError("a year beyond 9999")


def delivery(destination: FakeDestination, *, untellable: bool = False) -> QueueFailureDelivery:
    clock = VirtualClock()
    kind = Untellable if untellable else FakeTrigger
    return QueueFailureDelivery("m", FUNCTION, kind(FakeQueue(clock)), destination, FakeObserver(), clock)


async def given_up(
    destination: FakeDestination, *records: Record, untellable: bool = False
) -> list[JsonObject]:
    it = delivery(destination, untellable=untellable)
    handed = await it.deliver(records, Reason.RETRIES_EXHAUSTED, "request-1", "Unhandled")
    assert handed.taken == records
    assert handed.receipt is not None
    return [json.loads(each.body) for each in destination.records]


@pytest.mark.parametrize(
    "told", [True, False], ids=["a limit that is known", "a limit that it tells by refusing"]
)
async def test_what_is_too_large_is_halved_with_its_payload(told: bool) -> None:
    destination = Narrow(limit_bytes=3000) if told else Narrow(takes_bytes=3000)
    documents = await given_up(destination, *[record(n, size=1000) for n in range(8)])
    events = [json.loads(document["payload"])["Records"] for document in documents]
    assert [r["n"] for event in events for r in event] == list(range(8))
    assert len(documents) == 4
    assert not any("payloadOmitted" in document for document in documents)


async def test_one_record_that_is_too_large_goes_without_its_payload_and_says_why() -> None:
    documents = await given_up(Narrow(limit_bytes=1000), record(0, size=5000), record(1))
    (bare,) = [document for document in documents if "payload" not in document]
    assert bare["payloadOmitted"].startswith("fake takes 1000 bytes, not 5")
    assert bare["FakeBatchInfo"] == {"batchSize": 1}


async def test_details_that_cannot_be_made_leave_the_place_of_the_records() -> None:
    (document,) = await given_up(FakeDestination(), record(7), untellable=True)
    assert document["BatchInfo"] == {
        "batchSize": 1,
        "partition": "q",
        "firstPosition": "7",
        "lastPosition": "7",
    }
    assert document["payloadOmitted"] == "it could not be made, as the daemon's log says"


async def test_a_destination_too_small_for_anything_is_told_and_the_queue_keeps_the_records() -> None:
    destination = Narrow(limit_bytes=10)
    handed = await delivery(destination).deliver((record(0),), Reason.RETRIES_EXHAUSTED, "r", None)
    assert handed.left == (record(0),)
    assert destination.records == []


@given(st.integers(0, 4000), st.lists(st.integers(0, 3000), min_size=1, max_size=20), st.booleans())
def test_every_record_is_taken_or_left_once_and_in_order(limit: int, sizes: list[int], told: bool) -> None:
    destination = Narrow(limit_bytes=limit) if told else Narrow(takes_bytes=limit)
    records = tuple(record(n, size=size) for n, size in enumerate(sizes))
    handed = asyncio.run(delivery(destination).deliver(records, Reason.RETRIES_EXHAUSTED, "r", None))
    assert sorted([*handed.taken, *handed.left], key=records.index) == list(records)
    assert list(handed.taken) == sorted(handed.taken, key=records.index)
    assert all(each.size_bytes <= limit for each in destination.records)
    if limit >= 1200:  # there is always room for where the records are
        assert handed.left == ()


async def test_a_fault_of_a_destination_is_not_delivered_for_that_batch_alone() -> None:
    async with rig(record(0), policy=ONCE, answer=lambda numbers: FAILURE, destination=Raising()) as it:
        await it.clock.advance(1.0)
        assert it.observer.resolutions[-1].verdicts == (Returned(),)
        assert it.observer.failed_deliveries == 1
        assert not it.running.done()


async def test_a_stream_gives_up_what_its_trigger_cannot_tell_of() -> None:
    it = world(
        *[stream_record(n) for n in range(3)],
        policy=StreamPolicy(max_retries=0),
        answer=by_numbers(lambda numbers: FAILURE if 1 in numbers else SUCCESS),
    )
    it.trigger = UntellableStream(it.stream, it.trigger.limits, it.trigger.policy)
    async with it.running() as rig_:
        await rig_.until_at(2, within_s=10.0)
    assert it.failed[0]["BatchInfo"]["batchSize"] == 3
    assert len(it.function.events) == 1


async def test_a_stream_is_not_stopped_by_a_destination_with_a_fault() -> None:
    it = world(
        stream_record(0), stream_record(1), policy=StreamPolicy(max_retries=0), answer=lambda e: FAILURE
    )
    it.destination = Raising()
    async with it.running() as rig_:
        await rig_.until_at(1, within_s=10.0)
    assert it.observer.dropped == 2


async def test_a_stream_leaves_the_event_out_of_a_document_that_would_be_too_large() -> None:
    it = world(stream_record(0, size=5000), policy=StreamPolicy(max_retries=0), answer=lambda event: FAILURE)
    it.destination = Narrow(limit_bytes=2000, payload=Payload.EVENT)
    async with it.running() as rig_:
        await rig_.until_at(0)
    (document,) = it.failed
    assert "payload" not in document
    assert document["payloadOmitted"].startswith("fake takes 2000 bytes")


async def test_a_queue_that_can_reject_rejects_what_no_destination_holds() -> None:
    large = record(1, size=7 * 1024 * 1024)
    policy = QueuePolicy(drops_too_large=True, rejects=True)
    async with rig(large, record(2), policy=policy, on_failure=False) as it:
        await it.until_settled(2)
        verdicts = {r.batch.records[0].item_id: r.verdicts[0] for r in it.observer.resolutions}
        assert verdicts["1"] == Rejected(Reason.TOO_LARGE)
        assert it.observer.rejected == 1
        assert it.observer.dropped == 0


async def test_a_destination_that_does_not_answer_keeps_records_on_a_queue_that_can_reject() -> None:
    policy = QueuePolicy(max_retries=0, rejects=True)
    down = FakeDestination(broken=True)
    async with rig(record(1), policy=policy, answer=lambda numbers: FAILURE, destination=down) as it:
        await it.clock.advance(1.0)
        assert it.observer.resolutions[-1].verdicts == (Returned(),)
        it.destination.broken = False
        await it.until_settled(1)
        assert isinstance(it.observer.resolutions[-1].verdicts[0], Discarded)


async def test_an_event_that_is_too_large_is_split_and_costs_no_attempt() -> None:
    """The envelope of these batches is larger than the room that was left for it."""
    records = [record(n, size=2_200_000) for n in range(3)]
    async with rig(*records, policy=QueuePolicy(max_retries=0), room_bytes=1 << 30) as it:
        await it.until_settled(3)
        assert it.function.batches == [[0], [1, 2]]
        assert it.observer.failed_batches == 0


async def test_what_no_event_can_hold_of_a_stream_is_given_up_at_once_with_or_without_a_destination() -> None:
    for has_destination in (True, False):
        it = world(stream_record(0, size=7 * 1024 * 1024), stream_record(1), has_destination=has_destination)
        async with it.running() as rig_:
            await rig_.until_at(1, within_s=5.0)
        assert it.observer.dropped == (0 if has_destination else 1)
        assert it.function.seen == [1]


def test_an_error_of_size_is_an_error_of_delivery() -> None:
    assert issubclass(DocumentTooLarge, DestinationUnavailable)
