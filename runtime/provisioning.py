"""Keeps the provisioned environments of one function: made and initialised ahead, replaced when they go."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, retry_if_result, wait_exponential_jitter

from millstream.contract.clock import Clock
from millstream.contract.errors import SandboxUnavailable
from millstream.runtime.fleet import Fleet, Member, Stage

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""Environments of all functions that are initialised at once, ahead of invocations."""

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
"""Waits between rounds while the init phase fails: the first, doubled up to the longest."""

INIT_FAILURE = "FUNCTION_ERROR_INIT_FAILURE"
"""Source: AWS, GetProvisionedConcurrencyConfig, StatusReason."""


class MakesAhead(ABC):
    """Runs for as long as its function is there. `slots` are shared by all that make environments ahead."""

    def __init__(
        self,
        fleet: Fleet,
        make: Callable[[Fleet], Awaitable[Member]],
        free: Callable[[Member], object],
        end: Callable[[Member], object],
        slots: asyncio.Semaphore,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self._make = make
        self._free = free
        self._end = end
        self._slots = slots
        self._clock = clock

    async def run(self) -> None:
        """Make what is missing whenever something is. Raises nothing but cancellation."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda made: not made),
            wait=wait_exponential_jitter(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            sleep=self._clock.sleep,
        )
        while True:
            await self._fleet.short.wait()
            await retrying(self._round)

    @abstractmethod
    async def _round(self) -> bool:
        """Make some of what is missing; false if it cannot be made now."""


class Provisioner(MakesAhead):
    """Makes as many as are configured."""

    _said_ready = False

    async def _round(self) -> bool:
        missing = self._fleet.missing(self._clock.monotonic())
        if not missing:
            self._fleet.short.clear()
            self._say_ready()
            return True
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._add()) for _ in range(min(missing, AT_ONCE))]
        failed = [why for task in tasks if (why := task.result())]
        if failed:
            self._say_failed(failed[0])
        return not failed

    async def _add(self) -> str | None:
        """Make one; why it cannot be."""
        async with self._slots:
            try:
                member = await self._make(self._fleet)
            except SandboxUnavailable as unavailable:
                return str(unavailable)
            failed = await member.environment.prepare()
        if failed is not None or not member.environment.alive:
            self._end(member)
            return INIT_FAILURE  # the function's own log says why
        self._free(member)
        self._replace()
        return None

    def _replace(self) -> None:
        """One more is ready: an old one goes, now or at the end of its invocation."""
        for old in self._fleet.due(self._clock.monotonic())[:1]:
            if old.stage is Stage.BUSY:
                old.provisioned = False  # as any other of its age
            elif old.stage is not Stage.PREPARING:
                self._end(old)

    def _say_ready(self) -> None:
        self._fleet.failure = ""
        if not self._said_ready:
            self._said_ready = True
            spec = self._fleet.spec
            extra = {"function": spec.name, "environments": spec.provisioned_concurrency}
            logger.info("provisioned environments are ready", extra=extra)

    def _say_failed(self, why: str) -> None:
        self._said_ready = False
        if not self._fleet.failure:
            extra = {"function": self._fleet.spec.name, "why": why}
            logger.warning("provisioned environment not made, it is tried again", extra=extra)
        self._fleet.failure = why
