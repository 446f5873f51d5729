"""Waits that something may cut short."""

from __future__ import annotations

import asyncio

from millstream.contract.clock import Clock


async def pause(clock: Clock, for_s: float, until: asyncio.Event) -> None:
    """Sleep for `for_s`, or until the event is set, whichever comes first."""
    async with asyncio.TaskGroup() as group:
        nap = group.create_task(clock.sleep(for_s))
        called = group.create_task(until.wait())
        await asyncio.wait([nap, called], return_when=asyncio.FIRST_COMPLETED)
        nap.cancel()
        called.cancel()
