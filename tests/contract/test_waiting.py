"""Waits that are cut short, and cancellations that come together with a fault."""

from __future__ import annotations

import asyncio

import pytest

from millstream.contract.waiting import isolated, pause
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


async def fails(gate: asyncio.Event) -> None:
    try:
        await gate.wait()
    finally:
        raise ZeroDivisionError


async def in_a_group(gate: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails(gate))


async def test_a_cancellation_comes_before_a_fault_that_it_brings_about() -> None:
    """What asyncio.TaskGroup does where a child fails as its own task is cancelled."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(isolated(in_a_group(asyncio.Event())))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_whoever_meets_a_fault_goes_on_and_can_still_be_cancelled() -> None:
    gate, went_on = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        with pytest.raises(ExceptionGroup):
            await isolated(in_a_group(gate))
        went_on.set()
        await asyncio.sleep(3600.0)

    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        task = group.create_task(works())
        gate.set()
        await went_on.wait()
        task.cancel()
    assert task.cancelled()


async def test_what_it_returns_is_returned() -> None:
    async def seven() -> int:
        return 7

    assert await isolated(seven()) == 7


async def test_the_work_has_ended_though_it_is_cancelled_again_while_it_cleans_up() -> None:
    began, gate, cleaned = asyncio.Event(), asyncio.Event(), False

    async def works() -> None:
        nonlocal cleaned
        try:
            began.set()
            await asyncio.sleep(3600.0)
        finally:
            await gate.wait()
            cleaned = True

    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        task = group.create_task(isolated(works()))
        await began.wait()
        for _ in range(3):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert not task.done()
        gate.set()
    assert task.cancelled()
    assert cleaned
