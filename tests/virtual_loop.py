"""An event loop on which time passes only when nothing else is left to do: an hour takes milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STARTS_AT = 1000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock stands while anything is ready to run, and then jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = STARTS_AT

    def time(self) -> float:
        return self._virtual_s

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        # A timer that is due within the clock's resolution runs now, and must not see an earlier time.
        resolution_s: float = self._clock_resolution  # type: ignore[attr-defined]
        if timers and (not ready or timers[0].when() < self._virtual_s + resolution_s):
            self._virtual_s = max(self._virtual_s, timers[0].when())
        super()._run_once()  # type: ignore[misc]


class LoopClock:
    """Implements the Clock port by the running loop's time. Unix and monotonic time are the same here."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, for_s: float) -> None:
        await asyncio.sleep(max(for_s, 0.0))


def run(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run on a virtual loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
