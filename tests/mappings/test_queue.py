"""The queue runner with ports in memory and a virtual clock: nothing lost, order, permits, backoff, stop."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable
from millstream.contract.functions import MAX_PAYLOAD_BYTES, Outcome, Throttled
from millstream.contract.ports import BatchLimits, QueuePolicy
from millstream.contract.records import Discarded, Done
from tests.examples import examples
from tests.fakes import (
    FAILURE,
    SUCCESS,
    failures,
    record,
)
from tests.mappings.queue_rig import rig


async def test_every_record_reaches_the_function_once_and_is_settled() -> None:
    async with rig(*[record(n) for n in range(95)]) as it:
        await it.until_settled(95)
        assert sorted(it.function.seen) == list(range(95))
        assert sorted(map(int, it.queue.deleted)) == list(range(95))


async def test_without_a_window_a_single_record_goes_at_once() -> None:
    async with rig(limits=BatchLimits(10, 0.0)) as it:
        it.queue.put(record(1))
        await it.clock.advance(0.2)
        assert it.function.batches == [[1]]


async def test_a_window_collects_what_comes_within_it() -> None:
    async with rig(limits=BatchLimits(100, 5.0)) as it:
        await it.clock.advance(60.0)
        it.queue.put(record(1))
        await it.clock.advance(2.0)
        it.queue.put(record(2))
        await it.clock.advance(2.0)
        assert it.function.batches == []
        await it.clock.advance(2.0)
        assert it.function.batches == [[1, 2]]


@pytest.mark.parametrize("by_s", [86_400.0, -86_400.0])
async def test_a_clock_that_is_set_changes_no_window_and_no_lease(by_s: float) -> None:
    async with rig(limits=BatchLimits(100, 5.0), takes_s=20.0, lease_s=10.0) as it:
        it.queue.put(record(1))
        await it.clock.advance(1.0)
        it.clock.jumped_s = by_s
        await it.clock.advance(1.0)
        assert it.function.batches == []
        await it.clock.advance(5.0)
        assert it.function.batches == [[1]]
        await it.until_settled(1)
        assert it.function.batches == [[1]]


async def test_a_record_too_large_for_its_destination_stays_on_the_queue() -> None:
    async with rig(policy=QueuePolicy(max_retries=0), answer=lambda numbers: FAILURE, lease_s=5.0) as it:
        it.destination.limit_bytes = 100
        it.queue.put(record(1))
        await it.clock.advance(20.0)
        assert not it.queue.deleted
        assert not it.destination.records


async def test_a_batch_larger_than_a_poll_is_filled_by_several() -> None:
    async with rig(*[record(n) for n in range(100)], limits=BatchLimits(100, 5.0)) as it:
        await it.until_settled(100)
        assert [len(batch) for batch in it.function.batches] == [100]


async def test_no_event_passes_six_megabytes() -> None:
    big = [record(n, size=1_000_000) for n in range(10)]
    async with rig(*big, limits=BatchLimits(10, 0.0)) as it:
        await it.until_settled(10)
        assert max(len(batch) for batch in it.function.batches) * 1_000_000 < MAX_PAYLOAD_BYTES
        assert sorted(it.function.seen) == list(range(10))


TOO_LARGE = record(1, size=MAX_PAYLOAD_BYTES)
DROPS = QueuePolicy(drops_too_large=True)


async def test_what_no_event_can_hold_is_dropped_where_the_source_says_so() -> None:
    async with rig(TOO_LARGE, record(2), policy=DROPS, on_failure=False) as it:
        await it.until_settled(2)
        assert it.function.seen == [2]
        assert it.observer.dropped == 1


async def test_what_no_event_can_hold_goes_to_the_destination_if_there_is_one() -> None:
    async with rig(policy=DROPS) as it:
        it.destination.broken = True
        it.queue.put(TOO_LARGE)
        await it.clock.advance(5.0)
        assert not it.queue.deleted
        it.destination.broken = False
        await it.until_settled(1)
        assert it.function.seen == []
        (given,) = it.destination.records
        assert b'"condition":"MaximumPayloadSizeExceeded"' in given.body


async def test_a_poll_asks_for_a_page_of_its_sources_size() -> None:
    async with rig(limits=BatchLimits(1000, 0.0), policy=QueuePolicy(page=400)) as it:
        assert set(it.queue.receives) == {400}


async def test_filtered_records_are_deleted_and_never_invoked() -> None:
    async with rig(*[record(n) for n in range(20)], filters=({"n": [{"numeric": ["<", 5]}]},)) as it:
        await it.until_settled(20)
        assert sorted(it.function.seen) == [0, 1, 2, 3, 4]
        assert it.observer.filtered == 15


async def test_a_failed_batch_comes_back_after_its_visibility_timeout_and_not_before() -> None:
    answers: list[Outcome] = [FAILURE, SUCCESS]
    async with rig(record(1), lease_s=30.0, answer=lambda numbers: answers.pop(0)) as it:
        await it.until_settled(1)
        first, second = it.function.at
        assert second - first >= 30.0


async def test_only_the_listed_records_come_back() -> None:
    policy = QueuePolicy(item_failures=True)
    answers = [failures(3), SUCCESS]
    async with rig(*[record(n) for n in range(5)], policy=policy, answer=lambda n: answers.pop(0)) as it:
        await it.until_settled(5)
        assert it.function.batches == [[0, 1, 2, 3, 4], [3]]


async def test_a_record_stays_hidden_while_its_function_runs_longer_than_the_lease() -> None:
    async with rig(record(1), lease_s=10.0, takes_s=95.0) as it:
        await it.until_settled(1)
        assert it.function.batches == [[1]]


async def test_a_throttled_batch_is_tried_again_within_its_lease_then_let_go() -> None:
    async with rig(record(1), lease_s=30.0, answer=lambda numbers: Throttled("reserved", 0.0)) as it:
        await it.clock.advance(29.0)
        assert len(it.function.batches) >= 5
        assert not it.queue.deleted
        tries = len(it.function.batches)
        await it.clock.advance(20.0)
        assert len(it.function.batches) > tries
        assert it.queue.hidden["1"][0].delivery_count == 2


async def test_given_up_records_are_delivered_first_and_deleted_then() -> None:
    policy = QueuePolicy(max_retries=1)
    async with rig(record(1), policy=policy, lease_s=5.0, answer=lambda numbers: FAILURE) as it:
        await it.until_settled(1)
        assert len(it.function.batches) == 2
        assert len(it.destination.records) == 1
        verdict = it.observer.resolutions[-1].verdicts[0]
        assert isinstance(verdict, Discarded)
        assert verdict.receipt.accepted_by == "fake"


async def test_what_no_destination_takes_stays_on_the_queue() -> None:
    policy = QueuePolicy(max_retries=0)
    async with rig(policy=policy, lease_s=5.0, answer=lambda numbers: FAILURE) as it:
        it.destination.broken = True
        it.queue.put(record(1))
        await it.clock.advance(60.0)
        assert not it.queue.deleted
        it.destination.broken = False
        await it.until_settled(1)
        assert len(it.destination.records) == 1


async def test_a_failure_record_above_the_destinations_limit_is_halved() -> None:
    policy = QueuePolicy(max_retries=0)
    records = [record(n, size=500) for n in range(8)]
    async with rig(policy=policy, answer=lambda numbers: FAILURE) as it:
        it.destination.limit_bytes = 2000
        it.queue.put(*records)
        await it.until_settled(8)
        assert len(it.destination.records) > 1
        assert all(len(r.body) <= 2000 for r in it.destination.records)


async def test_each_success_is_reported_if_asked_for() -> None:
    async with rig(record(1), on_success=True) as it:
        await it.until_settled(1)
        assert [r.succeeded for r in it.destination.records] == [True]


@pytest.mark.parametrize("answer", [SUCCESS, FAILURE])
async def test_a_fixed_concurrency_neither_grows_nor_shrinks(answer: Outcome) -> None:
    policy = QueuePolicy(concurrency=2)
    many = [record(n) for n in range(400)]
    async with rig(*many, policy=policy, takes_s=1.0, lease_s=5.0, answer=lambda numbers: answer) as it:
        await it.clock.advance(60.0)
        assert it.function.most == 2
        assert len(it.function.batches) >= 40


async def test_concurrency_never_passes_its_maximum() -> None:
    policy = QueuePolicy(max_concurrency=3)
    async with rig(*[record(n) for n in range(200)], policy=policy, takes_s=5.0) as it:
        await it.until_settled(200)
        assert it.function.most == 3


async def test_no_more_is_received_than_permits_can_take() -> None:
    policy = QueuePolicy(max_concurrency=2)
    async with rig(*[record(n) for n in range(200)], policy=policy, takes_s=100.0) as it:
        await it.clock.advance(50.0)
        assert len(it.queue.hidden) <= 2 * 10


async def test_a_source_that_goes_away_is_asked_again_with_backoff() -> None:
    async with rig(record(1)) as it:
        await it.until_settled(1)
        it.queue.fault = SourceUnavailable("gone")
        await it.clock.advance(120.0)
        polls = len(it.queue.receives)
        assert it.observer.failed_polls
        await it.clock.advance(30.0)
        assert len(it.queue.receives) - polls < 30
        it.queue.fault = None
        it.queue.put(record(2))
        await it.until_settled(2)
        assert it.observer.recovered


async def test_a_source_that_is_gone_ends_the_runner_once_what_was_received_is_done() -> None:
    invalid = InvalidConfiguration([Problem("", "queue", "a queue", "none")])
    with pytest.raises(ExceptionGroup) as failed:
        async with rig(record(1), takes_s=5.0) as it:
            await it.clock.advance(1.0)
            it.queue.fault = invalid
            await it.clock.advance(30.0)
            assert it.queue.deleted == ["1"]
    assert failed.group_contains(InvalidConfiguration)


async def test_a_stopped_runner_finishes_what_it_received() -> None:
    async with rig(*[record(n) for n in range(10)], takes_s=5.0) as it:
        await it.clock.advance(1.0)
        it.runner.stop()
        await it.clock.advance(10.0)
        assert it.running.done()
        assert sorted(map(int, it.queue.deleted)) == list(range(10))


async def test_a_stopped_runner_sends_a_batch_whose_window_is_open() -> None:
    async with rig(record(1), limits=BatchLimits(100, 300.0)) as it:
        await it.clock.advance(1.0)
        it.runner.stop()
        await it.clock.advance(1.0)
        assert it.queue.deleted == ["1"]


async def test_what_a_failed_batch_blocks_of_its_group_is_not_invoked() -> None:
    """Ten records of 1 MB are two events; the second must not pass the first, which failed."""
    records = [record(n, key="g", size=1_000_000) for n in range(10)]
    async with rig(*records, ordered=True, answer=lambda numbers: FAILURE) as it:
        await it.clock.advance(1.0)
        assert it.function.batches == [[0, 1, 2, 3, 4, 5]]


async def test_another_group_is_not_blocked() -> None:
    records = [record(n, key=f"g{n % 2}", size=1_000_000) for n in range(10)]
    policy = QueuePolicy(item_failures=True)
    answers = [failures(0, 2, 4), SUCCESS]
    async with rig(*records, ordered=True, policy=policy, answer=lambda n: answers.pop(0)) as it:
        await it.clock.advance(1.0)
        assert it.function.batches == [[0, 1, 2, 3, 4, 5], [7, 9]]


@examples(40)
@given(
    count=st.integers(0, 120),
    size=st.integers(1, 30),
    window=st.sampled_from([0.0, 1.0, 5.0]),
    maximum=st.one_of(st.none(), st.integers(2, 6)),
    bad=st.sets(st.integers(0, 120), max_size=10),
    item_failures=st.booleans(),
    retries=st.integers(0, 2),
)
def test_no_record_is_lost_whatever_fails(
    count: int,
    size: int,
    window: float,
    maximum: int | None,
    bad: set[int],
    item_failures: bool,
    retries: int,
) -> None:
    def answer(numbers: list[int]) -> Outcome:
        hit = [n for n in numbers if n in bad]
        if not hit:
            return SUCCESS
        return failures(*hit) if item_failures else FAILURE

    async def run() -> None:
        policy = QueuePolicy(item_failures=item_failures, max_retries=retries, max_concurrency=maximum)
        limits = BatchLimits(size, window)
        async with rig(
            *[record(n) for n in range(count)], policy=policy, limits=limits, answer=answer, lease_s=5.0
        ) as it:
            await it.until_settled(count)
            assert sorted(map(int, it.queue.deleted)) == list(range(count))
            done = {
                int(r.item_id)
                for resolution in it.observer.resolutions
                for r, verdict in zip(resolution.batch.records, resolution.verdicts, strict=True)
                if isinstance(verdict, Done)
            }
            assert done & bad == set()
            if maximum is not None:
                assert it.function.most <= maximum

    asyncio.run(run())
