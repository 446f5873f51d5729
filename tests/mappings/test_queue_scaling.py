"""Scaling of a queue as on AWS, whatever the functions' duration. Time is virtual."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec import structs

from millstream.contract.ports import BatchLimits, QueuePolicy
from millstream.contract.records import Record
from millstream.mappings.queue import LONG_POLL_S, LOOK_S
from millstream.mappings.scaling import CEILING, START, BacklogScaler
from tests.fakes import FakeQueue, record
from tests.mappings.queue_rig import rig


class Endless(FakeQueue):
    """A backlog that never ends."""

    sent = 0

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        await self.clock.sleep(0.02)
        first, self.sent = self.sent, self.sent + limit
        return [
            structs.replace(record(0, at=self.clock.now()), item_id=str(n)) for n in range(first, self.sent)
        ]

    async def extend(self, records: Sequence[Record]) -> None:
        """Nothing: what is hidden stays hidden."""


class Idle(Endless):
    """Empty for an hour, then a backlog that never ends."""

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        empty_s = 1000.0 + 3600.0 - self.clock.now()
        if empty_s > 0:
            await self.clock.sleep(min(wait_s, empty_s))
            return []
        return await super().receive(limit, wait_s)


@pytest.mark.parametrize(("takes_s", "minutes"), [(5.0, 1), (60.0, 3), (900.0, 3)])
async def test_a_lasting_backlog_adds_three_hundred_batches_a_minute(takes_s: float, minutes: int) -> None:
    async with rig(takes_s=takes_s, lease_s=None, queue=Endless) as it:
        assert it.function.most <= START
        for minute in range(1, minutes + 1):
            await it.clock.advance(60.0)
            assert START + 300 * minute - 60 <= it.function.running <= START + 300 * minute


async def test_a_backlog_that_lasts_for_minutes_has_as_many_batches_as_aws_has_at_most() -> None:
    async with rig(takes_s=900.0, lease_s=None, queue=Endless) as it:
        await it.clock.advance(300.0)
        assert it.function.most == CEILING


async def test_maximum_concurrency_is_kept_to() -> None:
    async with rig(takes_s=60.0, lease_s=None, queue=Endless, policy=QueuePolicy(max_concurrency=50)) as it:
        await it.clock.advance(120.0)
        assert it.function.most == 50


async def test_what_is_held_stays_within_the_mappings_bytes() -> None:
    async with rig(
        *[record(n, size=100_000) for n in range(2000)],
        takes_s=60.0,
        limits=BatchLimits(100, 1.0),
        buffer_bytes=20_000_000,
    ) as it:
        for _ in range(300):
            await it.clock.advance(1.0)
            held = sum(r.size_bytes for r, _ in it.queue.hidden.values())
            assert 2 * held <= 20_000_000 + 2 * 10 * 100_100
        assert it.queue.deleted


async def test_a_record_larger_than_all_that_may_be_held_is_delivered_all_the_same() -> None:
    async with rig(record(1, size=1_000_000), record(2), buffer_bytes=1000) as it:
        await it.until_settled(2)


async def test_a_batch_that_has_no_more_room_in_memory_does_not_wait_for_its_window() -> None:
    waiting = [record(number, size=100_000) for number in range(200)]
    limits = BatchLimits(1000, 300.0)
    async with rig(*waiting, limits=limits, buffer_bytes=2_000_000) as it:
        await it.until_settled(190, within_s=60.0)
        assert {len(batch) for batch in it.function.batches[1:]} == {9}  # of the first, no size was known


async def test_an_idle_mapping_does_not_wake_each_second_and_grows_by_time_once_it_has_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[float] = []
    looked = BacklogScaler.looked

    def count(scaler: BacklogScaler, saturated: bool, now: float) -> None:
        looked_at.append(now)
        looked(scaler, saturated, now)

    monkeypatch.setattr(BacklogScaler, "looked", count)
    async with rig(takes_s=60.0, lease_s=None, queue=Idle) as it:
        await it.clock.advance(3599.0)
        assert len(looked_at) <= 2 * LONG_POLL_S / LOOK_S
        assert it.function.most == 0
        await it.clock.advance(61.0)
        assert START + 300 - 60 <= it.function.running <= START + 300
