"""Waits that something may cut short, and cancellations that nothing may swallow."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from millstream.contract.clock import Clock

T = TypeVar("T")


async def pause(clock: Clock, for_s: float, until: asyncio.Event) -> None:
    """Sleep for `for_s`, or until the event is set, whichever comes first."""
    async with asyncio.TaskGroup() as group:
        nap = group.create_task(clock.sleep(for_s))
        called = group.create_task(until.wait())
        await asyncio.wait([nap, called], return_when=asyncio.FIRST_COMPLETED)
        nap.cancel()
        called.cancel()


async def isolated(work: Coroutine[Any, Any, T]) -> T:
    """Return or raise what a coroutine does, in a task of its own; a cancellation is never lost in it.

    A TaskGroup whose child fails in the moment in which its own task is cancelled raises the child's fault
    alone, and leaves a count of cancellations behind that says nothing (CPython 3.11,
    `TaskGroup.__aexit__`). Here both are told apart: who is cancelled ends the work, and is cancelled.
    """
    task = asyncio.create_task(work)  # noqa: TID251  it ends before this returns, as in a group
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            if cancelled is None:  # as in a group: what cleans up is not cancelled again
                task.cancel()
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # it is told by nobody, for the cancellation comes first
    raise cancelled
