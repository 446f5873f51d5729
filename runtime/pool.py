"""Runs functions: one environment an invocation, made on demand or ahead, reused, frozen, retired."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from millstream.contract.clock import Clock
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import (
    MAX_PAYLOAD_BYTES,
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Throttled,
    TooLarge,
)
from millstream.contract.ports import Sandbox
from millstream.runtime import memory
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.fleet import Fleet, FunctionState, Member, least_recent
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.provisioning import AT_ONCE, Provisioner
from millstream.runtime.spares import NoRoom, Spares
from millstream.runtime.upkeep import Limits, Upkeep, Weights

logger = logging.getLogger(__name__)

IDLE_S = 300.0
"""How long an environment waits for work before it is ended."""

MAX_AGE_S = 7200.0
AGE_JITTER = 0.1
"""Environments are retired after this time, a tenth more or less, however busy they are.

Source: AWS, "Understanding the Lambda execution environment lifecycle": every few hours.
"""

FREEZE_AFTER_S = 0.05
"""How long an environment goes on without an invocation before its processes are stopped."""

HELD_S = 0.1
"""How long an invocation waits for an environment that extensions hold, before another one is made."""

UNAVAILABLE = Throttled("ServiceException", 1.0)
"""This host cannot make one more environment now."""

ENDED_AT_ONCE = 16


class RuntimePool:
    """Implements Invoker for the functions that it is given; used as an async context manager.

    `memory_mb` is what all environments may hold together; None: no limit.
    """

    def __init__(
        self,
        functions: Mapping[str, FunctionSpec],
        sandbox: Sandbox,
        ledger: ConcurrencyLedger,
        logs: FunctionLogs,
        clock: Clock,
        idle_s: float = IDLE_S,
        *,
        max_age_s: float = MAX_AGE_S,
        freeze_after_s: float | None = FREEZE_AFTER_S,
        memory_mb: int | None = None,
        runs_short: Callable[[], bool] = memory.runs_short,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._sandbox = sandbox
        self._ledger = ledger
        self._logs = logs
        self._clock = clock
        self._limits = Limits(idle_s, max_age_s, freeze_after_s, memory_mb)
        self._chance = chance
        self._fleets = {name: Fleet(spec) for name, spec in functions.items()}
        self._weights = Weights()
        self._runs_short = runs_short
        fleets = list(self._fleets.values())
        self._upkeep = Upkeep(fleets, self._weights, self._limits, clock, self._end, runs_short)
        self._group = asyncio.TaskGroup()
        self._keepers: list[asyncio.Task[None]] = []
        self._ends = asyncio.Semaphore(ENDED_AT_ONCE)
        self._ending = 0
        self._closed = False
        self._said_full = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        slots = asyncio.Semaphore(AT_ONCE)
        work = [self._upkeep.tend()]
        if self._limits.freeze_after_s is not None:
            work.append(self._upkeep.freeze(self._limits.freeze_after_s))
        for fleet in self._fleets.values():
            if fleet.spec.provisioned_concurrency:
                work.append(
                    Provisioner(fleet, self._provision, self._free, self._end, slots, self._clock).run()
                )
            if fleet.spec.snap_start:
                work.append(Spares(fleet, self._make_spare, self._free, self._end, slots, self._clock).run())
        self._keepers = [self._group.create_task(keeper) for keeper in work]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for keeper in self._keepers:
            keeper.cancel()
        for fleet in self._fleets.values():
            for member in list(fleet.members):
                self._end(member)
        await self._group.__aexit__(None, None, None)
        self._logs.close()

    def idle(self, function: str) -> int:
        """Environments of a function that wait for work, frozen ones included."""
        fleet = self._fleets[function]
        return len(fleet.idle) + len(fleet.ready)

    @property
    def retiring(self) -> bool:
        """True while environments are being ended."""
        return self._ending > 0

    @property
    def held_mb(self) -> float:
        """What all environments hold, about, those included that are being made or ended."""
        return self._weights.held_kb / 1024

    def state(self) -> list[FunctionState]:
        """Every function, in the order of its declaration."""
        return [fleet.state() for fleet in self._fleets.values()]

    async def invoke(self, function: str, event: bytes) -> Outcome:
        fleet = self._fleets.get(function)
        request_id = _new_id()
        if fleet is None:
            return _refused("ResourceNotFoundException", f"Function not found: {function}", request_id)
        if len(event) > MAX_PAYLOAD_BYTES:
            return TooLarge(len(event), MAX_PAYLOAD_BYTES)
        outcome: Outcome | None = self._ledger.take(fleet.spec, self._clock.monotonic())
        if outcome is None:
            try:
                outcome = await self._invoke(fleet, event, request_id)
            finally:
                self._ledger.give(fleet.spec)
        if isinstance(outcome, Throttled):
            fleet.throttles[outcome.reason] += 1
        return outcome

    async def _invoke(self, fleet: Fleet, event: bytes, request_id: str) -> Outcome:
        member = fleet.pick()
        if member is None and fleet.held:
            member = await self._pick_held(fleet)
        while member is not None and not member.environment.alive:  # it ended while it had no work
            self._end(member)
            member = fleet.pick()
        if member is None:
            made = await self._make_on_demand(fleet)
            if isinstance(made, Throttled):
                return made
            member = made
        fleet.invocations += 1
        if fleet.spec.provisioned_concurrency and not member.provisioned:
            fleet.spillovers += 1
        outcome: Outcome | None = None
        try:
            outcome = await member.environment.invoke(event, request_id)
        finally:
            if outcome is None:  # cut off: whatever it does still, nobody else shall meet it
                self._end(member)
        if isinstance(outcome, FunctionFailed):
            fleet.errors += 1
        elif isinstance(outcome, Throttled):  # the event has reached nobody
            fleet.invocations -= 1
        if member.environment.busy and member.closing is None:
            held = self._group.create_task(self._free_later(member))
            fleet.held.add(held)
            held.add_done_callback(fleet.held.discard)
        elif (end := self._free(member)) is not None:
            await asyncio.wait([end])  # its memory is free before another takes its place
        return outcome

    async def _pick_held(self, fleet: Fleet) -> Member | None:
        """An environment that is free in a moment."""
        await asyncio.wait(fleet.held, timeout=HELD_S, return_when=asyncio.FIRST_COMPLETED)
        return fleet.pick()

    async def _free_later(self, member: Member) -> None:
        """It takes no other invocation until its extensions are done with the last one."""
        await member.environment.idle()
        self._free(member)

    def _free(self, member: Member) -> asyncio.Task[None] | None:
        """It has no work any more. Its end, if it is not used again."""
        if member.closing is not None:
            return member.closing
        now = self._clock.monotonic()
        if not member.environment.alive or (member.retire_at <= now and not member.provisioned):
            return self._end(member)
        if not member.weighed:
            self._weights.weigh(member)
        member.fleet.put(member, now)
        self._upkeep.resting.set()
        return None

    async def _make_on_demand(self, fleet: Fleet) -> Member | Throttled:
        if self._closed:
            return UNAVAILABLE
        throttled = self._ledger.scale(fleet.spec, self._clock.monotonic())
        if throttled is not None:
            return throttled
        ahead = fleet.spare is not None or fleet.coming is not None
        if ahead and (spare := await self._take_spare(fleet)) is not None:
            return spare
        if not await self._room(fleet):
            if not self._said_full:
                extra = {"function": fleet.spec.name, "held_mb": self._weights.held_kb // 1024}
                logger.warning("environment not made, all memory for environments is in use", extra=extra)
            self._said_full = True
            return UNAVAILABLE
        self._said_full = False
        try:
            return await self._make(fleet, provisioned=False)
        except SandboxUnavailable as unavailable:
            logger.error(  # noqa: TRY400  an answer of the host, not a fault of ours
                "environment not made", extra={"function": fleet.spec.name, "why": str(unavailable)}
            )
            return UNAVAILABLE

    async def _provision(self, fleet: Fleet) -> Member:
        """Raises SandboxUnavailable. What is configured has its room, even above the budget."""
        await self._room(fleet)
        return await self._make(fleet, provisioned=True)

    async def _make_spare(self, fleet: Fleet) -> Member:
        """Raises SandboxUnavailable. Nothing else is ended for it."""
        limit_mb = self._limits.memory_mb
        full = limit_mb is not None and self._weights.held_kb + fleet.expected_kb > limit_mb * 1024
        if full or self._runs_short():
            raise NoRoom(fleet.spec.name)
        return await self._make(fleet, provisioned=True)

    async def _take_spare(self, fleet: Fleet) -> Member | None:
        """The one that was made ahead, once it is ready; None if it ended."""
        if fleet.spare is None and fleet.coming is not None:
            coming, fleet.coming = fleet.coming, None
            await coming.wait()
        member = fleet.take_spare()
        if member is None:
            return None
        ready = False
        try:
            await member.prepared.wait()
            ready = member.environment.alive
        finally:
            if not ready:
                self._end(member)
        return member if ready else None

    async def _make(self, fleet: Fleet, provisioned: bool) -> Member:
        """Raises SandboxUnavailable."""
        size_kb = fleet.expected_kb
        self._weights.held_kb += size_kb
        fleet.making += 1
        environment = None
        try:
            spec = fleet.spec if provisioned else fleet.on_demand
            environment = await self._sandbox.create(spec, self._logs.of(spec.name))
        finally:
            fleet.making -= 1
            if environment is None:
                self._weights.held_kb -= size_kb
        age_s = self._limits.max_age_s * (1 + AGE_JITTER * (2 * self._chance() - 1))
        retire_at = self._clock.monotonic() + age_s
        member = Member(fleet, environment, retire_at, size_kb, provisioned)
        if self._closed:
            await self._close(member)
            raise SandboxUnavailable("the pool is closed")
        fleet.members[member] = None
        self._upkeep.occupied.set()
        return member

    async def _room(self, fleet: Fleet) -> bool:
        """End idle environments until one more fits; false if it does not. A function's first always does."""
        if self._limits.memory_mb is None:
            return True
        budget_kb = self._limits.memory_mb * 1024
        while self._weights.held_kb + fleet.expected_kb > budget_kb:
            oldest = least_recent(list(self._fleets.values()))
            if oldest is None:
                return not (fleet.members or fleet.making)
            await asyncio.wait([self._end(oldest)])
        return True

    def _end(self, member: Member) -> asyncio.Task[None]:
        """Close it in the background; once, however often it is asked for."""
        if member.closing is None:
            member.fleet.drop(member)
            member.closing = self._group.create_task(self._close(member))
        return member.closing

    async def _close(self, member: Member) -> None:
        self._ending += 1
        try:
            async with self._ends:
                await member.environment.aclose()
        finally:
            self._ending -= 1
            self._weights.held_kb -= member.size_kb


def _new_id() -> str:
    """A random UUID of version 4, at a third of the cost of the library's object."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _refused(kind: str, message: str, request_id: str) -> FunctionFailed:
    payload = msgspec.json.encode({"errorType": kind, "errorMessage": message})
    return FunctionFailed(kind, message, payload, request_id)
