"""The stream runner with functions that fail: attempts, halves, ages, destinations. Time is virtual."""

from __future__ import annotations

import json

import pytest

from millstream.contract.functions import MAX_PAYLOAD_BYTES, Outcome, Throttled
from millstream.contract.ports import BatchLimits, Payload
from millstream.contract.streams import StreamPolicy
from tests.fakes import FAILURE, SUCCESS, failures
from tests.mappings.stream_rig import by_numbers, world
from tests.stream_fakes import stream_record


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
async def test_a_poison_record_is_given_up_after_its_retries_and_the_next_follows(retries: int) -> None:
    it = world(
        *[stream_record(n) for n in range(3)],
        limits=BatchLimits(1, 0.0),
        policy=StreamPolicy(max_retries=retries),
        answer=by_numbers(lambda numbers: FAILURE if 1 in numbers else SUCCESS),
    )
    async with it.running() as rig:
        await rig.until_at(2)
    assert it.function.seen == [0, *[1] * (retries + 1), 2]
    (document,) = it.failed
    assert document["requestContext"]["approximateInvokeCount"] == retries + 1
    assert document["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert document["responseContext"] == {
        "statusCode": 200,
        "executedVersion": "$LATEST",
        "functionError": "Unhandled",
    }


async def test_retries_wait_1_2_4_seconds_and_so_on() -> None:
    it = world(stream_record(0), answer=lambda event: FAILURE)
    async with it.running():
        await it.clock.advance(1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 + 1)
    waits = [round(b - a) for a, b in zip(it.function.at, it.function.at[1:], strict=False)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_throttled_batch_waits_and_is_never_given_up() -> None:
    blocked = [True]

    def answer(numbers: list[int]) -> Outcome:
        return Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", 0.0) if blocked[0] else SUCCESS

    it = world(stream_record(0), policy=StreamPolicy(max_retries=0), answer=by_numbers(answer))
    async with it.running() as rig:
        await it.clock.advance(600.0)
        assert (it.cursor, it.failed) == (-1, [])
        blocked[0] = False
        await rig.until_at(0)
    assert it.failed == []


async def test_halves_isolate_one_poison_record_of_eight() -> None:
    it = world(
        *[stream_record(n) for n in range(8)],
        policy=StreamPolicy(max_retries=0, bisect=True),
        answer=by_numbers(lambda numbers: FAILURE if 5 in numbers else SUCCESS),
    )
    async with it.running() as rig:
        await rig.until_at(7)
    assert it.function.batches[0] == list(range(8))
    (document,) = it.failed
    assert document["FakeBatchInfo"] == {
        "shardId": "p",
        "startSequenceNumber": "5",
        "endSequenceNumber": "5",
        "batchSize": 1,
    }


async def test_the_recorded_case_restarts_the_count_after_partial_success() -> None:
    """Batch 3, retries 3, record 6 bad: it is delivered 5 times, approximateInvokeCount is 4."""
    it = world(
        *[stream_record(n) for n in range(1, 7)],
        limits=BatchLimits(3, 0.0),
        policy=StreamPolicy(item_failures=True, max_retries=3),
        answer=by_numbers(lambda numbers: failures(6) if 6 in numbers else SUCCESS),
    )
    async with it.running() as rig:
        await rig.until_at(6)
    assert [it.function.seen.count(n) for n in range(1, 7)] == [1, 1, 1, 1, 1, 5]
    (document,) = it.failed
    assert document["requestContext"]["approximateInvokeCount"] == 4
    assert document["responseContext"]["functionError"] is None
    assert document["FakeBatchInfo"]["batchSize"] == 1


async def test_a_mixed_batch_is_split_by_age() -> None:
    old, fresh = stream_record(0, at=900.0), [stream_record(n, at=1000.0) for n in range(1, 6)]
    it = world(old, *fresh, policy=StreamPolicy(max_age_s=60.0))
    async with it.running() as rig:
        await rig.until_at(5)
    assert it.function.batches == [[1, 2, 3, 4, 5]]
    (document,) = it.failed
    assert document["requestContext"]["condition"] == "RecordAgeExceeded"
    assert document["requestContext"]["approximateInvokeCount"] == 1
    assert "responseContext" not in document
    assert document["FakeBatchInfo"]["batchSize"] == 1


async def test_a_record_that_grows_too_old_while_it_is_retried_tells_how_often_it_was() -> None:
    it = world(stream_record(0, at=1000.0), policy=StreamPolicy(max_age_s=60.0), answer=lambda event: FAILURE)
    async with it.running() as rig:
        await rig.until_at(0)
    (document,) = it.failed
    assert document["requestContext"]["condition"] == "RecordAgeExceeded"
    assert document["requestContext"]["approximateInvokeCount"] == len(it.function.events) > 1
    assert "responseContext" not in document


async def test_the_age_limit_holds_while_throttled() -> None:
    it = world(
        stream_record(0, at=1000.0),
        policy=StreamPolicy(max_age_s=60.0),
        answer=lambda event: Throttled("x", 0.0),
    )
    async with it.running() as rig:
        await rig.until_at(0)
    assert it.failed[0]["requestContext"]["approximateInvokeCount"] == 1


async def test_without_a_destination_what_is_given_up_is_dropped_and_counted() -> None:
    it = world(
        stream_record(0),
        stream_record(1),
        policy=StreamPolicy(max_retries=0),
        answer=lambda e: FAILURE,
        has_destination=False,
    )
    async with it.running() as rig:
        await rig.until_at(1)
    assert it.observer.dropped == 2


async def test_what_a_destination_does_not_take_is_dropped_and_counted_as_on_aws() -> None:
    it = world(stream_record(0), policy=StreamPolicy(max_retries=0), answer=lambda event: FAILURE)
    it.destination.broken = True
    async with it.running() as rig:
        await rig.until_at(0)
    assert (it.observer.dropped, it.observer.failed_deliveries) == (1, 1)


async def test_a_required_destination_holds_the_shard_until_it_takes_the_record() -> None:
    policy = StreamPolicy(max_retries=0, on_failure_required=True)
    it = world(
        stream_record(0),
        stream_record(1),
        limits=BatchLimits(1, 0.0),
        policy=policy,
        answer=by_numbers(lambda numbers: FAILURE if 0 in numbers else SUCCESS),
    )
    it.destination.broken = True
    async with it.running() as rig:
        await it.clock.advance(600.0)
        assert (it.cursor, it.function.seen) == (-1, [0])
        it.destination.broken = False
        await rig.until_at(1)
    assert (len(it.failed), it.observer.dropped) == (1, 0)


async def test_payloads_go_only_to_destinations_that_want_them() -> None:
    it = world(stream_record(0), policy=StreamPolicy(max_retries=0), answer=lambda event: FAILURE)
    it.destination.payload = Payload.EVENT
    async with it.running() as rig:
        await rig.until_at(0)
        it.destination.payload = Payload.NONE
        it.stream.put(stream_record(1))
        await rig.until_at(1)
    with_payload, without = it.failed
    assert json.loads(with_payload["payload"])["Records"][0]["n"] == 0
    assert "payload" not in without


async def test_a_record_that_no_event_can_hold_goes_to_the_destination() -> None:
    it = world(stream_record(0, size=MAX_PAYLOAD_BYTES), stream_record(1), policy=StreamPolicy())
    async with it.running() as rig:
        await rig.until_at(1)
    assert it.function.seen == [1]
    assert it.failed[0]["requestContext"]["condition"] == "MaximumPayloadSizeExceeded"
