"""A clock that a test moves: sleepers wake when their time has come, in order, without waiting."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class VirtualClock:
    """Implements the Clock port. Starts at 1,000 s; Unix and monotonic time are the same here."""

    def __init__(self) -> None:
        self._now = 1000.0
        self.jumped_s = 0.0  # by how much the Unix clock was set, forth or back
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now + self.jumped_s

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, for_s: float) -> None:
        if for_s <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + for_s, next(self._order), woken))
        await woken

    async def advance(self, by_s: float) -> None:
        """Let `by_s` pass; whoever wakes runs before later sleepers do."""
        end = self._now + by_s
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            if not woken.done():
                woken.set_result(None)
                await self.settle()
        self._now = end
        await self.settle()

    def freeze(self, for_s: float) -> None:
        """Let `for_s` pass without anybody running, as for a process that is stopped."""
        self._now += for_s

    @property
    def sleepers(self) -> int:
        """Who still waits for a time."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def settle(self) -> None:
        """Let every task run until all of them wait."""
        for _ in range(50):
            await asyncio.sleep(0)
