"""Keeps one mapping running: opens its source, restarts it after faults and refusals, stops it when told to.

Creating ── opened ──► Enabled ── stop ──► Stopped
   ▲                      │
   └── after a while ◄────┴─ SourceUnavailable, Refused, a fault of ours
InvalidConfiguration at any time ──► Disabled, with the reason

Only a declaration that is wrong is final. What is refused now may be allowed later, by somebody who knows
nothing of this mapping, so it is asked for again; the mapping says that it has a problem meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from millstream.contract.backoff import Backoff
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.ports import Observer
from millstream.contract.waiting import isolated, pause

logger = logging.getLogger(__name__)

UNAVAILABLE_FIRST_S = 0.5
UNAVAILABLE_MOST_S = 30.0
"""Waits between tries to open a source that does not answer: the first, doubled up to the longest."""

REFUSED_FIRST_S = 1.0
REFUSED_MOST_S = 300.0
"""The same for one that refuses us, or is not there: somebody has to mend that, which takes a while."""

RESTART_FIRST_S = 5.0
RESTART_MOST_S = 60.0
"""The same after a fault of our own."""


class Runner(Protocol):
    """What is supervised."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...

    async def backlog(self) -> int | None: ...

    @property
    def details(self) -> Mapping[str, str]: ...


class Supervisor:
    """Runs one mapping until it is stopped; a fault of it never reaches another mapping.

    `open_runner` finds the source and makes a fresh runner on it, closed again by its context.
    """

    def __init__(
        self,
        mapping: str,
        open_runner: Callable[[], AbstractAsyncContextManager[Runner]],
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._mapping = mapping
        self._open_runner = open_runner
        self._observer = observer
        self._clock = clock
        self._runner: Runner | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End softly; `run` returns once what was received is settled."""
        self._stopping.set()
        if self._runner is not None:
            self._runner.stop()

    async def backlog(self) -> int | None:
        """About how many records wait. None: it does not run, or the source does not say."""
        return None if self._runner is None else await self._runner.backlog()

    @property
    def details(self) -> Mapping[str, str]:
        """What else its source says of itself. Empty: it does not run, or says nothing."""
        return {} if self._runner is None else self._runner.details

    async def run(self) -> None:
        """Run until stopped or disabled. Raises nothing but cancellation."""
        self._observer.state_changed(self._mapping, "Creating", "")
        unavailable = Backoff(UNAVAILABLE_FIRST_S, UNAVAILABLE_MOST_S)
        refused = Backoff(REFUSED_FIRST_S, REFUSED_MOST_S)
        faulty = Backoff(RESTART_FIRST_S, RESTART_MOST_S)
        while not self._stopping.is_set():
            try:
                await isolated(self._live())
                continue
            except InvalidConfiguration as invalid:
                reason = "; ".join(str(problem) for problem in invalid.problems)
                self._observer.state_changed(self._mapping, "Disabled", reason)
                return
            except SourceUnavailable as why:
                self._observer.poll_failed(self._mapping, str(why))
                backoff = unavailable
            except Refused as why:
                self._observer.refused(self._mapping, str(why))
                backoff = refused
            except Exception as fault:
                logger.exception("mapping failed, it is restarted", extra={"mapping": self._mapping})
                self._observer.poll_failed(self._mapping, f"{_told(fault)}, see the daemon's log")
                backoff = faulty
            await pause(self._clock, backoff.wait_s(self._clock.monotonic()), self._stopping)
        self._observer.state_changed(self._mapping, "Stopped", "")

    async def _live(self) -> None:
        async with self._open_runner() as runner:
            self._runner = runner
            try:
                self._observer.state_changed(self._mapping, "Enabled", "")
                if not self._stopping.is_set():
                    await runner.run()
            finally:
                self._runner = None


def _told(fault: BaseException) -> str:
    """What to call a fault: of a group the first one in it, which is what went wrong."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return type(fault).__name__
