"""One poisoned lane of a shard: the others go on, memory is bounded, nothing is lost. Time is virtual."""

from __future__ import annotations

import random
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from millstream.contract.functions import Outcome
from millstream.contract.ports import BatchLimits
from millstream.contract.streams import StreamPolicy
from millstream.mappings.lanes import ReadAhead
from tests.examples import examples
from tests.fakes import FAILURE, SUCCESS
from tests.mappings.stream_rig import World, by_numbers, world
from tests.stream_fakes import stream_record

POISON, WELL = "a", next(key for key in "bcdefgh" if crc32(key.encode()) % 2 != crc32(b"a") % 2)
AHEAD = ReadAhead(records=200, span=1000, bytes=1 << 20)


class Poison:
    """An answer that fails batches with the first record, for as long as it works."""

    def __init__(self) -> None:
        self.works = True

    def __call__(self, numbers: list[int]) -> Outcome:
        return FAILURE if self.works and 0 in numbers else SUCCESS


def of_two_lanes(count: int, answer: object, policy: StreamPolicy = StreamPolicy(lanes=2)) -> World:
    """Records whose even numbers are of the poisoned lane."""
    records = [stream_record(n, key=WELL if n % 2 else POISON) for n in range(count)]
    return world(*records, policy=policy, answer=answer, ahead=AHEAD)  # type: ignore[arg-type]


async def test_a_poisoned_lane_stops_only_itself_and_its_records_come_once_it_is_well() -> None:
    poison = Poison()
    it = of_two_lanes(4000, by_numbers(poison))
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 2000, within_s=300.0)
        assert it.cursor == -1
        poison.works = False
        await rig.until_at(3999)
    delivered = [n for n in it.function.seen if n >= 20]
    assert sorted(delivered) == list(range(20, 4000))
    for parity in (0, 1):
        mine = [n for n in delivered if n % 2 == parity]
        assert mine == sorted(mine)


async def test_what_is_held_while_a_lane_is_blocked_is_bounded() -> None:
    it = of_two_lanes(20_000, by_numbers(lambda numbers: FAILURE if 0 in numbers else SUCCESS))
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 10_000, within_s=600.0)
        lanes = rig.runner._lanes
        assert all(records <= AHEAD.records for records, _ in lanes._held)
        assert rig.runner._tracker.in_flight <= AHEAD.span


async def test_a_stop_while_a_lane_is_behind_reads_all_of_it_again_after_the_restart() -> None:
    poison = Poison()
    it = of_two_lanes(2000, by_numbers(poison))
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 1000, within_s=300.0)
    poison.works = False
    async with it.running() as rig:
        await rig.until_at(1999)
    assert set(it.function.seen) == set(range(2000))


async def test_a_lane_that_is_let_go_where_the_partition_ends_is_caught_up_at_once() -> None:
    poison = Poison()
    it = of_two_lanes(AHEAD.records, by_numbers(poison))
    async with it.running() as rig:
        await rig.until(lambda: bool(rig.runner._lanes.behind), within_s=300.0)
        poison.works = False
        await rig.until_at(AHEAD.records - 1, within_s=100.0)
        it.stream.put(*[stream_record(AHEAD.records + n, key=WELL) for n in range(10)])
        await rig.until_at(AHEAD.records + 9, within_s=10.0)


async def test_what_a_lane_let_go_comes_again_whatever_times_the_records_have() -> None:
    """Source: AWS, Record.ApproximateArrivalTimestamp: "there are no guarantees … always increasing"."""
    poison = Poison()
    records = [
        stream_record(n, key=WELL if n % 2 else POISON, at=1000.0 + (50.0 if n % 7 == 0 else 0.0))
        for n in range(2000)
    ]
    it = world(*records, policy=StreamPolicy(lanes=2), answer=by_numbers(poison), ahead=AHEAD)
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 1000, within_s=300.0)
        poison.works = False
        await rig.until_at(1999)
    assert set(it.function.seen) == set(range(2000))


async def test_an_empty_page_does_not_say_that_a_lane_has_caught_up() -> None:
    """Source: AWS, DynamoDB Streams, GetRecords: it may take calls to get to a part that has records."""
    poison = Poison()
    it = of_two_lanes(2000, by_numbers(poison))
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 1000, within_s=300.0)
        it.part.empty_pages = 1  # of each reader, before its first record
        poison.works = False
        await rig.until_at(1999)
    assert set(it.function.seen) == set(range(2000))


async def test_what_was_trimmed_while_a_lane_was_behind_holds_nobody_up() -> None:
    poison = Poison()
    it = of_two_lanes(2000, by_numbers(poison))
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 1000, within_s=300.0)
        it.part.records.clear()
        poison.works = False
        await it.clock.advance(60.0)
        late = [stream_record(n, key=WELL if n % 2 else POISON, at=5000.0) for n in range(2000, 2100)]
        it.stream.put(*[structs.replace(record, received_at=5001.0) for record in late])
        await rig.until_at(2099, within_s=60.0)
    assert set(it.function.seen) >= set(range(2000, 2100))


async def test_a_lane_that_has_filled_its_share_of_memory_does_not_wait_for_its_window() -> None:
    records = [stream_record(n, key=WELL if n % 2 else POISON, size=1000) for n in range(12_000)]
    ahead = ReadAhead(records=40_000, span=160_000, bytes=4_000_000)
    it = world(*records, limits=BatchLimits(10_000, 300.0), policy=StreamPolicy(lanes=2), ahead=ahead)
    async with it.running() as rig:
        await rig.until(lambda: len(it.function.seen) >= 10_000, within_s=60.0)
        assert min(map(len, it.function.batches)) > 500


async def test_a_lane_that_gathers_a_batch_does_not_hold_up_the_others_for_its_window() -> None:
    records = [stream_record(n, key=WELL if n else POISON) for n in range(5000)]
    it = world(*records, limits=BatchLimits(10, 300.0), policy=StreamPolicy(lanes=2), ahead=AHEAD)
    async with it.running() as rig:
        await rig.until(lambda: len(it.function.seen) >= 4990, within_s=60.0)


async def test_where_every_lane_fails_reading_stops() -> None:
    it = of_two_lanes(4000, by_numbers(lambda numbers: FAILURE))
    async with it.running():
        await it.clock.advance(300.0)
        reads = it.part.reads
        await it.clock.advance(300.0)
        assert it.part.reads == reads


async def test_a_partition_that_ended_is_over_only_once_what_was_let_go_is_read_again() -> None:
    poison = Poison()
    it = of_two_lanes(2000, by_numbers(poison))
    it.part.ended = True
    async with it.running() as rig:
        await rig.until(lambda: sum(n % 2 for n in it.function.seen) == 1000, within_s=300.0)
        await it.clock.advance(60.0)
        assert not rig.task.done()
        poison.works = False
        await rig.until(rig.task.done)
        assert rig.task.result() is True
    assert it.cursor == 1999


@examples(30)
@given(st.integers(), st.integers(1, 4), st.integers(1, 600))
async def test_every_record_is_resolved_in_the_order_of_its_key(seed: int, lanes: int, count: int) -> None:
    """Batches fail for a while at random, some for long; whichever lanes are let go catch up."""
    rnd = random.Random(seed)
    fails = {n: rnd.randint(3, 8) for n in range(count) if rnd.random() < 0.01}

    def answer(numbers: list[int]) -> Outcome:
        bad = [n for n in numbers if fails.get(n, 0) > 0]
        for n in bad:
            fails[n] -= 1
        return FAILURE if bad else SUCCESS

    records = [stream_record(n, key=rnd.choice("abcdefgh")) for n in range(count)]
    it = world(
        *records,
        policy=StreamPolicy(lanes=lanes),
        answer=by_numbers(answer),
        limits=BatchLimits(5, 0.0),
        ahead=ReadAhead(records=40, span=10_000, bytes=1 << 20),
    )
    done: list[int] = []
    it.function.answer = lambda event: _noting(event, answer, done)
    async with it.running() as rig:
        await rig.until_at(count - 1, within_s=36_000.0)
    assert sorted(done) == list(range(count))
    for key in "abcdefgh":
        mine = [n for n in done if records[n].ordering_key == key]
        assert mine == sorted(mine)


def _noting(event: object, answer: object, done: list[int]) -> Outcome:
    numbers = [record["n"] for record in event["Records"]]  # type: ignore[index]
    outcome: Outcome = answer(numbers)  # type: ignore[operator]
    if outcome is SUCCESS:
        done.extend(numbers)
    return outcome
