"""Time as a port, so that windows, backoff and ages are tested without waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. All values are seconds."""

    def now(self) -> float:
        """Unix time; may jump, so only for what is shown or compared with a source's times."""

    def monotonic(self) -> float:
        """Time that never jumps; for windows, deadlines and waits."""

    async def sleep(self, for_s: float) -> None:
        """Return once `for_s` have passed; at once, but not before others ran, if it is 0 or less."""


class SystemClock:
    """The host's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, for_s: float) -> None:
        await asyncio.sleep(max(for_s, 0.0))
