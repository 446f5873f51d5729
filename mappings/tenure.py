"""How long a daemon may act under its leases without hearing from the store."""

from __future__ import annotations

import asyncio

from millstream.contract.clock import Clock


class Tenure:
    """The leases of one mapping, which are renewed together.

    A daemon that was frozen, or is cut off from the store, must take it that others read its
    partitions by now: it invokes nothing more until a renewal has told it which are still its own.
    """

    def __init__(self, clock: Clock, lasts_s: float) -> None:
        self._clock = clock
        self._lasts_s = lasts_s
        self._until = clock.monotonic() + lasts_s
        self._renewed = asyncio.Event()

    @property
    def over(self) -> bool:
        """True once nothing may be invoked."""
        return self._clock.monotonic() >= self._until

    def renewed(self, asked_at: float) -> None:
        """Note a renewal that the store was asked for at `asked_at` (monotonic) and has made."""
        self._until = asked_at + self._lasts_s
        self._renewed.set()

    async def resumed(self) -> None:
        """Return once it is not over."""
        while self.over:
            self._renewed.clear()
            await self._renewed.wait()
