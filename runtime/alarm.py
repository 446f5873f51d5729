"""A deadline that moves with each invocation, for less than a timer of the event loop costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls `ring` once the time that was set last is over, unless it is cleared before.

    Each time that is set must not be before the last one: the timer is moved when it is over, not when a new
    time is set.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, after_s: float) -> None:
        """Ring after so many seconds."""
        self._at = self._loop.time() + after_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._at, self._look)

    def clear(self) -> None:
        """Do not ring. The timer stays until its time is over."""
        self._at = None

    def close(self) -> None:
        """Give the timer back."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._loop.time() < self._at:
            self._timer = self._loop.call_at(self._at, self._look)
        else:
            self._at = None
            self._ring()
