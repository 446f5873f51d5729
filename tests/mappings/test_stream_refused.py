"""The stream runner with records that their source refused. Time is virtual."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.ports import BatchLimits
from millstream.contract.records import Batch, Discarded, Reason, Record
from millstream.contract.streams import StreamPolicy
from millstream.mappings.stream_decide import Attempt, drop_refused
from tests.mappings.stream_rig import World, world
from tests.stream_fakes import stream_record

MISSING, UNFIT = Reason.SCHEMA_NOT_FOUND, Reason.DESERIALIZATION_ERROR


def refused(number: int, reason: Reason = UNFIT) -> Record:
    return msgspec.structs.replace(stream_record(number), refused=reason)


def discarded(it: World) -> list[tuple[int, Reason]]:
    return [
        (int(record.position), verdict.reason)
        for resolution in it.observer.resolutions
        for record, verdict in zip(resolution.batch.records, resolution.verdicts, strict=True)
        if isinstance(verdict, Discarded)
    ]


@pytest.mark.parametrize("reason", [MISSING, UNFIT])
async def test_a_refused_record_goes_to_the_destination_and_the_rest_to_the_function(reason: Reason) -> None:
    it = world(stream_record(0), refused(1, reason), stream_record(2))
    async with it.running() as rig:
        await rig.until_at(2)
    assert it.function.batches == [[0, 2]]
    (document,) = it.failed
    assert document["requestContext"]["condition"] == reason.value
    assert document["requestContext"]["approximateInvokeCount"] == 1
    assert "responseContext" not in document
    assert document["FakeBatchInfo"]["startSequenceNumber"] == "1"


async def test_refused_records_are_told_by_reason() -> None:
    it = world(refused(0, MISSING), refused(1, UNFIT), refused(2, MISSING), stream_record(3))
    async with it.running() as rig:
        await rig.until_at(3)
    assert [(one["requestContext"]["condition"], one["FakeBatchInfo"]["batchSize"]) for one in it.failed] == [
        ("SCHEMA_NOT_FOUND", 2),
        ("DESERIALIZATION_ERROR", 1),
    ]


async def test_a_batch_of_refused_records_alone_invokes_nothing() -> None:
    it = world(refused(0), refused(1))
    async with it.running() as rig:
        await rig.until_at(1)
    assert it.function.batches == []


async def test_without_a_destination_refused_records_are_dropped_and_counted() -> None:
    it = world(refused(0), stream_record(1), has_destination=False)
    async with it.running() as rig:
        await rig.until_at(1)
    assert (it.observer.dropped, discarded(it), it.function.seen) == (1, [(0, UNFIT)], [1])


async def test_a_required_destination_holds_what_follows_a_refused_record() -> None:
    policy = StreamPolicy(on_failure_required=True)
    it = world(stream_record(0), refused(1), stream_record(2), limits=BatchLimits(1, 0.0), policy=policy)
    it.destination.broken = True
    async with it.running() as rig:
        await it.clock.advance(300.0)
        assert (it.cursor, it.function.seen) == (0, [0])
        it.destination.broken = False
        await rig.until_at(2)
    assert (it.function.seen, len(it.failed)) == ([0, 2], 1)


async def test_no_filter_drops_a_refused_record() -> None:
    it = world(refused(0), stream_record(1), filters=({"key": ["another"]},))
    async with it.running() as rig:
        await rig.until_at(1)
    assert (len(it.failed), it.observer.filtered, it.function.batches) == (1, 1, [])


async def test_a_refused_record_may_be_old_and_too_large() -> None:
    old = msgspec.structs.replace(stream_record(0, at=1.0, size=7_000_000), refused=UNFIT)
    it = world(old, stream_record(1), policy=StreamPolicy(max_age_s=60.0))
    async with it.running() as rig:
        await rig.until_at(1)
    assert [one["requestContext"]["condition"] for one in it.failed] == ["DESERIALIZATION_ERROR"]


@given(st.lists(st.sampled_from([None, MISSING, UNFIT]), min_size=1, max_size=12))
def test_no_record_is_lost_where_some_are_refused(reasons: list[Reason | None]) -> None:
    records = [msgspec.structs.replace(stream_record(n), refused=why) for n, why in enumerate(reasons)]
    given_up, left = drop_refused(Attempt(Batch(tuple(records))))
    rest = [] if left is None else list(left.batch.records)
    assert rest == [record for record in records if record.refused is None]
    for step in given_up:
        assert list(step.records) == [record for record in records if record.refused is step.reason]
    assert len(rest) + sum(len(step.records) for step in given_up) == len(records)
    assert json.dumps([step.reason.value for step in given_up])
