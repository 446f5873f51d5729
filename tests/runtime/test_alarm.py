"""A deadline that moves."""

from __future__ import annotations

import asyncio

from millstream.runtime.alarm import Alarm

SOON_S, LATER_S = 0.02, 0.2


class Bell:
    """Hears an alarm."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1
        self.rung.set()


async def test_it_rings_once_its_time_is_over() -> None:
    bell = Bell()
    alarm = Alarm(bell.ring)
    began = asyncio.get_running_loop().time()
    alarm.set(SOON_S)
    async with asyncio.timeout(5.0):
        await bell.rung.wait()
    assert asyncio.get_running_loop().time() - began >= SOON_S
    alarm.close()


async def test_a_later_time_takes_the_place_of_the_one_before() -> None:
    bell = Bell()
    alarm = Alarm(bell.ring)
    alarm.set(SOON_S)
    began = asyncio.get_running_loop().time()
    alarm.set(LATER_S)
    async with asyncio.timeout(5.0):
        await bell.rung.wait()
    assert asyncio.get_running_loop().time() - began >= LATER_S
    assert bell.rings == 1
    alarm.close()


async def test_one_that_is_cleared_rings_for_the_next_time_alone() -> None:
    bell = Bell()
    alarm = Alarm(bell.ring)
    alarm.set(SOON_S)
    alarm.clear()
    other = Bell()
    behind = Alarm(other.ring)
    behind.set(2 * SOON_S)
    async with asyncio.timeout(5.0):
        await other.rung.wait()
        assert bell.rings == 0
        alarm.set(SOON_S)
        await bell.rung.wait()
    assert bell.rings == 1
    alarm.close()
    behind.close()


async def test_one_that_is_closed_never_rings() -> None:
    bell, other = Bell(), Bell()
    alarm, behind = Alarm(bell.ring), Alarm(other.ring)
    alarm.set(SOON_S)
    alarm.close()
    behind.set(2 * SOON_S)
    async with asyncio.timeout(5.0):
        await other.rung.wait()
    assert bell.rings == 0
    behind.close()
