"""Waits that something may cut short, and cancellations that nothing may swallow."""

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


def end_if_cancelled() -> None:
    """Raise CancelledError if the current task was told to end; for whoever goes on after a fault.

    A TaskGroup whose child fails in the moment in which its own task is cancelled raises the child's fault,
    and the cancellation with it is never raised again (CPython, `TaskGroup.__aexit__`).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
