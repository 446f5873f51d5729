"""A clock for tests of a pace, where threads answer that no virtual clock could wait for."""

from __future__ import annotations

import asyncio


class LeapingClock:
    """Whoever sleeps wakes at once, and the time has passed."""

    def __init__(self, now: float = 1_760_000_000.0) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, for_s: float) -> None:
        self.at += max(for_s, 0.0)
        await asyncio.sleep(0)
