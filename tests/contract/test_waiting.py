"""Waits that are cut short, and cancellations that come together with a fault."""

from __future__ import annotations

import asyncio

import pytest

from millstream.contract.waiting import end_if_cancelled, pause
from tests.clock import VirtualClock


async def test_a_pause_ends_with_its_time_or_with_its_event() -> None:
    clock, called = VirtualClock(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(pause(clock, 10.0, called))
        await clock.advance(9.0)
        assert not first.done()
        await clock.advance(1.0)
        assert first.done()
        second = group.create_task(pause(clock, 10.0, called))
        await clock.settle()
        called.set()
        await clock.settle()
        assert second.done()
    assert clock.sleepers == 0


async def test_a_cancellation_that_a_fault_hides_is_raised_again() -> None:
    """What asyncio.TaskGroup does where a child fails as its own task is cancelled."""
    gate, went_on = asyncio.Event(), False

    async def fails() -> None:
        try:
            await gate.wait()
        finally:
            raise ZeroDivisionError

    async def works() -> None:
        nonlocal went_on
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        except* ZeroDivisionError:
            pass
        end_if_cancelled()
        went_on = True

    async with asyncio.TaskGroup() as group:
        task = group.create_task(works())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert not went_on


async def test_a_task_that_is_not_cancelled_goes_on() -> None:
    end_if_cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await asyncio.sleep(1.0)
    end_if_cancelled()
