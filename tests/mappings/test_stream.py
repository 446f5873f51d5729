"""The stream runner: order, lanes, windows, attempts, ages, checkpoints, stops. Time is virtual."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    Problem,
    SourceUnavailable,
)
from millstream.contract.functions import MAX_PAYLOAD_BYTES, Outcome, Throttled
from millstream.contract.ports import BatchLimits
from millstream.contract.records import Done
from millstream.contract.streams import StreamPolicy
from millstream.mappings.stream import ReadAhead
from tests.fakes import FAILURE, SUCCESS, failures
from tests.mappings.stream_rig import by_numbers, world
from tests.stream_fakes import stream_record


async def test_records_come_in_order_in_batches_and_the_cursor_follows() -> None:
    it = world(*[stream_record(n) for n in range(95)])
    async with it.running() as rig:
        await rig.until_at(94)
    assert it.function.batches == [list(range(n, min(n + 10, 95))) for n in range(0, 95, 10)]


async def test_without_a_window_a_single_record_goes_at_once() -> None:
    it = world()
    async with it.running():
        it.stream.put(stream_record(1))
        await it.clock.advance(0.3)
        assert it.function.batches == [[1]]


async def test_a_batch_spans_several_reads_within_its_window() -> None:
    it = world(limits=BatchLimits(100, 5.0))
    async with it.running() as rig:
        for n in range(4):
            it.stream.put(stream_record(n))
            await it.clock.advance(1.0)
        assert it.function.batches == []
        await rig.until_at(3, within_s=10.0)
        assert it.function.batches == [[0, 1, 2, 3]]


async def test_a_full_batch_does_not_wait_for_its_window() -> None:
    it = world(*[stream_record(n) for n in range(20)], limits=BatchLimits(10, 300.0))
    async with it.running():
        await it.clock.advance(1.0)
        assert [len(batch) for batch in it.function.batches] == [10, 10]


async def test_a_window_opens_when_the_invocation_before_it_ends() -> None:
    it = world(stream_record(0), limits=BatchLimits(100, 10.0), takes_s=60.0)
    async with it.running():
        await it.clock.advance(15.0)
        it.stream.put(stream_record(1))
        await it.clock.advance(100.0)
    first, second = it.function.at
    assert second - (first + 60.0) == pytest.approx(10.0)


async def test_a_batch_ends_before_6_mb() -> None:
    it = world(*[stream_record(n, size=1 << 20) for n in range(8)], limits=BatchLimits(100, 0.0))
    async with it.running() as rig:
        await rig.until_at(7)
    assert [len(batch) for batch in it.function.batches] == [5, 3]


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


async def test_filtered_records_move_the_cursor_without_an_invocation() -> None:
    records = [stream_record(n, key="no") for n in range(5)]
    it = world(*records, filters=({"key": ["yes"]},))
    async with it.running() as rig:
        await rig.until_at(4)
    assert it.function.events == []
    assert it.observer.filtered == 5


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
    it.destination.wants_payload = True
    async with it.running() as rig:
        await rig.until_at(0)
        it.destination.wants_payload = False
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


async def test_one_poisoned_key_does_not_hold_up_the_other_lane_nor_lose_anything() -> None:
    poisoned = [True]

    def answer(event: dict[str, list[dict[str, object]]]) -> Outcome:
        return FAILURE if poisoned[0] and any(r["key"] == "a" for r in event["Records"]) else SUCCESS

    records = [stream_record(n, key="a" if n % 2 else "d") for n in range(40)]
    it = world(*records, policy=StreamPolicy(lanes=2), answer=answer)
    async with it.running():
        await it.clock.advance(30.0)
        done = {n for batch, e in zip(it.function.batches, it.function.events, strict=True) for n in batch}
        assert done >= set(range(0, 40, 2))
        assert it.cursor <= 0
    poisoned[0] = False
    async with it.running() as rig:
        await rig.until_at(39)
    assert set(it.function.seen) == set(range(40))


async def test_lanes_keep_the_order_of_each_key() -> None:
    records = [stream_record(n, key=f"key-{n % 7}") for n in range(200)]
    it = world(*records, policy=StreamPolicy(lanes=4), takes_s=0.3)
    async with it.running() as rig:
        await rig.until_at(199)
    for key in range(7):
        assert [n for n in it.function.seen if n % 7 == key] == list(range(key, 200, 7))


async def test_reading_stops_while_too_much_is_held() -> None:
    it = world(
        *[stream_record(n) for n in range(1000)],
        answer=lambda event: FAILURE,
        ahead=ReadAhead(records=50, span=1000, bytes=1 << 20),
    )
    async with it.running():
        await it.clock.advance(300.0)
    assert it.part.reads <= 2


async def test_reading_stops_while_too_many_bytes_are_held() -> None:
    it = world(
        *[stream_record(n, size=10_000) for n in range(1000)],
        answer=lambda event: FAILURE,
        ahead=ReadAhead(records=10_000, span=100_000, bytes=200_000),
    )
    async with it.running():
        await it.clock.advance(300.0)
    assert it.part.reads <= 2


async def test_the_end_of_a_partition_comes_after_its_last_record_is_resolved() -> None:
    it = world(*[stream_record(n) for n in range(15)], takes_s=3.0)
    it.part.ended = True
    async with it.running() as rig:
        await it.clock.advance(4.0)
        assert not rig.task.done()
        await rig.until(rig.task.done)
        assert rig.task.result() is True
    assert it.cursor == 14


async def test_a_stop_resolves_what_runs_and_leaves_the_rest() -> None:
    it = world(*[stream_record(n) for n in range(30)], takes_s=5.0)
    async with it.running():
        await it.clock.advance(1.0)
    assert it.function.batches == [list(range(10))]
    assert it.cursor == 9
    async with it.running() as rig:
        await rig.until_at(29)
    assert it.function.seen == list(range(30))


async def test_a_stop_does_not_wait_for_a_retry() -> None:
    it = world(stream_record(0), answer=lambda event: FAILURE)
    async with it.running() as rig:
        await it.clock.advance(100.0)
        rig.runner.stop()
        await it.clock.settle()
        assert rig.task.done()
        assert rig.task.result() is False
    assert it.cursor == -1


async def test_a_lost_lease_ends_the_runner_and_nothing_is_written() -> None:
    it = world(*[stream_record(n) for n in range(30)], takes_s=1.0)
    with pytest.raises(ExceptionGroup) as raised:
        async with it.running():
            await it.clock.advance(0.5)
            row = it.store.rows["m", "p"]
            row.owner, row.epoch = "another", row.epoch + 1
            await it.clock.advance(5.0)
    assert raised.group_contains(LeaseLost)
    assert it.cursor == -1


async def test_a_store_that_is_down_delays_the_cursor_and_loses_nothing() -> None:
    it = world(*[stream_record(n) for n in range(30)], takes_s=1.0)
    async with it.running() as rig:
        it.store.broken = True
        await it.clock.advance(30.0)
        assert it.cursor < 29
        it.store.broken = False
        await rig.until_at(29)
    assert it.function.seen == list(range(30))


async def test_a_source_that_is_down_is_asked_again_and_said_once() -> None:
    it = world()
    async with it.running() as rig:
        it.part.fault = SourceUnavailable("s: throttled")
        await it.clock.advance(120.0)
        reads = it.part.reads
        assert reads < 30
        it.part.fault = None
        it.stream.put(stream_record(0))
        await rig.until_at(0)
    assert it.observer.failed_polls == ["s: throttled"]
    assert it.observer.recovered == 1


@pytest.mark.parametrize(
    "gone", [PartitionGone("p"), InvalidConfiguration([Problem("", "stream", "a stream", "none")])]
)
async def test_what_was_read_is_resolved_before_a_partition_is_given_up(gone: Exception) -> None:
    it = world(*[stream_record(n) for n in range(30)], takes_s=1.0)
    with pytest.raises(ExceptionGroup) as raised:
        async with it.running() as rig:
            it.part.fault = gone
            await rig.until(rig.task.done)
    assert raised.group_contains(type(gone))
    assert it.cursor == 29


async def test_the_iterator_age_is_that_of_the_newest_record_of_a_batch() -> None:
    it = world(stream_record(0, at=900.0), stream_record(1, at=990.0))
    async with it.running() as rig:
        await rig.until_at(1)
    assert it.observer.ages == [10.0]


POLICIES = st.builds(
    StreamPolicy,
    item_failures=st.booleans(),
    max_retries=st.none() | st.integers(0, 3),
    bisect=st.booleans(),
    lanes=st.sampled_from([1, 2, 4]),
)


@settings(max_examples=30, deadline=None)
@given(
    total=st.integers(1, 60),
    size=st.integers(1, 20),
    window_s=st.sampled_from([0.0, 3.0]),
    policy=POLICIES,
    poison=st.sets(st.integers(0, 60), max_size=6),
    restarts=st.integers(0, 2),
)
async def test_nothing_is_lost_and_each_key_keeps_its_order(
    total: int, size: int, window_s: float, policy: StreamPolicy, poison: set[int], restarts: int
) -> None:
    """Poison heals after a while, so that policies without a limit end as well."""
    healed_at = 1600.0
    taken: list[int] = []

    def answer(numbers: list[int]) -> Outcome:
        bad = [n for n in numbers if n in poison and it.clock.monotonic() < healed_at]
        if not bad:
            taken.extend(numbers)
            return SUCCESS
        if policy.item_failures:
            taken.extend(numbers[: numbers.index(bad[0])])
            return failures(*bad)
        return FAILURE

    records = [stream_record(n, key=f"k{n % 5}") for n in range(total)]
    it = world(*records, limits=BatchLimits(size, window_s), policy=policy, answer=by_numbers(answer))
    for _ in range(restarts):
        async with it.running():
            await it.clock.advance(7.0)
    async with it.running() as rig:
        await rig.until_at(total - 1)
    given_up: set[int] = set()
    for document in it.failed:
        about = document["FakeBatchInfo"]
        count = document["requestContext"]["approximateInvokeCount"]
        assert policy.max_retries is not None
        assert count == policy.max_retries + 1
        given_up |= set(range(int(about["startSequenceNumber"]), int(about["endSequenceNumber"]) + 1))
    assert set(taken) | given_up == set(range(total))
    assert not restarts or policy.max_retries is not None or set(taken) == set(range(total))
    if policy.max_retries is None:
        assert given_up == set()
    if not restarts:
        for key in range(5):
            of_key = [n for n in taken if n % 5 == key]
            assert of_key == sorted(of_key)
        assert len(taken) == len(set(taken))
        delivered = [r for resolution in it.observer.resolutions for r in _done(resolution)]
        assert sorted(delivered) == sorted(taken)


def _done(resolution: object) -> list[int]:
    pairs = zip(resolution.batch.records, resolution.verdicts, strict=True)  # type: ignore[attr-defined]
    return [int(record.item_id) for record, verdict in pairs if isinstance(verdict, Done)]
