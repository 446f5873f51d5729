"""Keeps one mapping running: opens its source, restarts it after faults, stops it for good when it is wrong.

Creating ── opened ──► Enabled ── stop ──► Stopped
   ▲                      │
   └── backoff ◄── SourceUnavailable, a fault of ours
InvalidConfiguration at any time ──► Disabled, with the reason
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, SourceUnavailable
from millstream.contract.ports import Observer

logger = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
"""Waits between tries to open a source: the first, doubled up to the longest."""

RESTART_S = 5.0
"""Pause after a fault of our own."""


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
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(SourceUnavailable),
            wait=wait_exponential_jitter(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            sleep=self._pause,
            before_sleep=self._say,
            stop=lambda _: self._stopping.is_set(),
            reraise=True,
        )
        while not self._stopping.is_set():
            try:
                await retrying(self._live)
            except SourceUnavailable:
                break  # stopped while the source did not answer
            except InvalidConfiguration as invalid:
                reason = "; ".join(str(problem) for problem in invalid.problems)
                self._observer.state_changed(self._mapping, "Disabled", reason)
                return
            except Exception as fault:
                logger.exception("mapping failed, it is restarted", extra={"mapping": self._mapping})
                self._observer.poll_failed(self._mapping, f"{type(fault).__name__}, see the daemon's log")
                await self._pause(RESTART_S)
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

    def _say(self, state: RetryCallState) -> None:
        why = state.outcome.exception() if state.outcome is not None else None
        self._observer.poll_failed(self._mapping, str(why))

    async def _pause(self, for_s: float) -> None:
        """Sleep, or until stopped."""
        async with asyncio.TaskGroup() as group:
            stop = group.create_task(self._stopping.wait())
            nap = group.create_task(self._clock.sleep(for_s))
            await asyncio.wait([stop, nap], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            nap.cancel()
