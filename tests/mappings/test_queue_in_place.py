"""Failed batches that are tried again while their records are held. Time is virtual."""

from __future__ import annotations

from millstream.contract.functions import Outcome, Throttled
from millstream.contract.ports import BatchLimits, QueuePolicy, RetryInPlace
from millstream.contract.records import Discarded, Returned
from tests.fakes import FAILURE, SUCCESS, failures, record
from tests.mappings.queue_rig import rig

IN_PLACE = QueuePolicy(concurrency=1, in_place=RetryInPlace(first_s=1.0, most_s=60.0, within_s=1800.0))


async def test_an_outage_of_three_minutes_costs_the_queue_no_delivery() -> None:
    down = True

    def answer(numbers: list[int]) -> Outcome:
        return FAILURE if down else SUCCESS

    async with rig(*[record(n) for n in range(5)], policy=IN_PLACE, answer=answer, lease_s=None) as it:
        await it.clock.advance(180.0)
        assert it.queue.deleted == []
        down = False
        await it.until_settled(5)
        assert not [r for r in it.observer.resolutions if Returned() in r.verdicts]
        waits = [later - earlier for earlier, later in zip(it.function.at, it.function.at[1:], strict=False)]
        assert [round(wait) for wait in waits[:6]] == [1, 2, 4, 8, 16, 32]
        assert max(waits) <= 61


async def test_only_what_failed_is_tried_again() -> None:
    tried: list[list[int]] = []

    def answer(numbers: list[int]) -> Outcome:
        tried.append(numbers)
        return failures(1, 3) if len(tried) == 1 else SUCCESS

    policy = QueuePolicy(item_failures=True, in_place=IN_PLACE.in_place)
    async with rig(*[record(n) for n in range(5)], policy=policy, answer=answer, lease_s=None) as it:
        await it.clock.advance(0.5)
        assert sorted(it.queue.deleted) == ["0", "2", "4"]
        await it.until_settled(5)
        assert tried == [[0, 1, 2, 3, 4], [1, 3]]


async def test_a_try_in_place_counts_as_a_delivery() -> None:
    policy = QueuePolicy(max_retries=2, in_place=IN_PLACE.in_place)
    async with rig(record(0), policy=policy, answer=lambda numbers: FAILURE, lease_s=None) as it:
        await it.until_settled(1)
        assert it.function.batches == [[0]] * 3
        assert b'"approximateInvokeCount":3' in it.destination.records[0].body
        assert isinstance(it.observer.resolutions[-1].verdicts[0], Discarded)


async def test_what_rests_leaves_its_permit_to_others() -> None:
    def answer(numbers: list[int]) -> Outcome:
        return FAILURE if 0 in numbers else SUCCESS

    limits = BatchLimits(10, 0.0)
    async with rig(
        *[record(n) for n in range(200)], limits=limits, policy=IN_PLACE, answer=answer, lease_s=None
    ) as it:
        await it.until_settled(190, within_s=5.0)


async def test_no_more_batches_rest_than_may_run() -> None:
    async with rig(
        *[record(n) for n in range(200)], policy=IN_PLACE, answer=lambda numbers: FAILURE, lease_s=None
    ) as it:
        await it.clock.advance(300.0)
        assert len(it.queue.hidden) <= 2 * 10


async def test_what_would_be_held_for_too_long_goes_back_to_the_queue() -> None:
    policy = QueuePolicy(in_place=RetryInPlace(first_s=1.0, most_s=60.0, within_s=30.0))
    async with rig(record(0), policy=policy, answer=lambda numbers: FAILURE, lease_s=None) as it:
        await it.clock.advance(30.0)
        (resolution,) = it.observer.resolutions
        assert resolution.verdicts == (Returned(),)
        assert it.function.at[-1] + 3.0 <= 1000.0 + 30.0  # the function's timeout still fitted in


async def test_what_is_throttled_goes_back_in_time_as_well() -> None:
    policy = QueuePolicy(in_place=RetryInPlace(first_s=1.0, most_s=60.0, within_s=30.0))
    throttled = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", 0.0)
    async with rig(record(0), policy=policy, answer=lambda numbers: throttled, lease_s=None) as it:
        await it.clock.advance(30.0)
        (resolution,) = it.observer.resolutions
        assert resolution.verdicts == (Returned(),)


async def test_a_stop_gives_back_what_rests_at_once() -> None:
    async with rig(record(0), policy=IN_PLACE, answer=lambda numbers: FAILURE, lease_s=None) as it:
        await it.clock.advance(100.0)
        it.runner.stop()
        await it.clock.advance(0.1)
        assert it.running.done()
        assert it.observer.resolutions[-1].verdicts == (Returned(),)
