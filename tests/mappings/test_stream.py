"""The stream runner: order, lanes, windows, checkpoints, stops. Time is virtual."""

from __future__ import annotations

import pytest

from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    Problem,
    SourceUnavailable,
)
from millstream.contract.functions import Outcome
from millstream.contract.ports import BatchLimits
from millstream.contract.streams import StreamPolicy
from millstream.mappings.lanes import ReadAhead
from tests.fakes import FAILURE, SUCCESS
from tests.mappings.stream_rig import world
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


async def test_filtered_records_move_the_cursor_without_an_invocation() -> None:
    records = [stream_record(n, key="no") for n in range(5)]
    it = world(*records, filters=({"key": ["yes"]},))
    async with it.running() as rig:
        await rig.until_at(4)
    assert it.function.events == []
    assert it.observer.filtered == 5


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


async def test_a_source_that_is_down_is_asked_again_with_growing_waits() -> None:
    it = world()
    async with it.running() as rig:
        it.part.fault = SourceUnavailable("s: throttled")
        await it.clock.advance(120.0)
        reads = it.part.reads
        assert reads < 30
        it.part.fault = None
        it.stream.put(stream_record(0))
        await rig.until_at(0)
    assert set(it.observer.failed_polls) == {"s: throttled"}
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
