"""Long work on the event loop, done in slices, so that it makes nobody else late."""

from __future__ import annotations

import asyncio
import sys

from millstream.contract.clock import Clock

SLICE_S = 0.0005
"""Work goes on for so long before others have their turn. A message takes ten turns to its function."""

SWITCH_S = 0.0002
"""A thread keeps the interpreter for so long from another while work is long; Python's own default is 5 ms.

A client's thread waits for so long after each of its reads and writes: with the default, a message of
RabbitMQ was 30 ms late. It has to be shorter than a slice: where the loop pauses before a thread has waited
for so long, the thread begins to wait anew. And it is not for all times: threads that share a lot of work,
as those of Kafka's clients do, take up to a sixth longer for it.
"""

LONG_S = 0.005
"""Work is long from here on."""

KEPT_S = 1.0
"""For so long after the last long work threads go on to switch often: the next page will be as long."""


class Slices:
    """The slices of one piece of work.

    slices = Slices(clock)
    for item in many:
        …
        if slices.over:
            await slices.rest()
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._ends_at, self._long_at = now + SLICE_S, now + LONG_S

    @property
    def over(self) -> bool:
        """True once others should have their turn."""
        return self._clock.monotonic() >= self._ends_at

    async def rest(self) -> None:
        """Let others run; a new slice begins."""
        if self._ends_at >= self._long_at:
            _switches.often()
        await self._clock.sleep(0.0)
        self._ends_at = self._clock.monotonic() + SLICE_S


class _Switches:
    """The interval at which this process's threads hand the interpreter over to one another."""

    def __init__(self) -> None:
        self._usual_s = sys.getswitchinterval()
        self._until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # while they do so often

    def often(self) -> None:
        """Have them do so often for a while, from now on."""
        loop = asyncio.get_running_loop()
        self._until = loop.time() + KEPT_S
        if self._loop is not loop:
            self._loop = loop
            sys.setswitchinterval(min(SWITCH_S, self._usual_s))
            loop.call_later(KEPT_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        left_s = self._until - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._look, loop)
        else:
            self._loop = None
            sys.setswitchinterval(self._usual_s)


_switches = _Switches()
