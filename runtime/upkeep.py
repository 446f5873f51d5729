"""Looks after environments that have no work: freezes them, ends spent ones, keeps to the memory there is.

One look each for all of them, and none while there is nothing to look at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from millstream.contract.clock import Clock
from millstream.runtime.fleet import Fleet, Member, Stage

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often spent environments are looked for."""

WEIGHED_AT_ONCE = 64
"""Environments that are weighed in one look; each costs a read of a small file."""


FROZEN_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """When environments are frozen and ended."""

    idle_s: float
    max_age_s: float
    freeze_after_s: float | None  # None: never
    memory_mb: int | None  # of all environments. None: no limit


class Weights:
    """What all environments hold: weighed where it was, guessed where not."""

    def __init__(self) -> None:
        self.held_kb = 0

    def weigh(self, member: Member) -> None:
        """Ask one environment; if it does not know, the guess stays."""
        member.weighed = True
        found_kb = member.environment.memory_kb
        if found_kb > 0:
            self.held_kb += found_kb - member.size_kb
            member.size_kb = member.fleet.expected_kb = found_kb


class Upkeep:
    """Two endless looks at the fleets; `end` closes a member, in the background."""

    def __init__(
        self,
        fleets: list[Fleet],
        weights: Weights,
        limits: Limits,
        clock: Clock,
        end: Callable[[Member], object],
        runs_short: Callable[[], bool],
    ) -> None:
        self._fleets = fleets
        self._weights = weights
        self._limits = limits
        self._clock = clock
        self._end = end
        self._runs_short = runs_short
        self._turn = self._frozen_turn = 0
        self._short = False  # of memory, at the last look
        self.resting = asyncio.Event()  # an environment is idle and not frozen
        self.occupied = asyncio.Event()  # there is an environment

    async def freeze(self, after_s: float) -> None:
        """Freeze what is idle for `after_s`, at most twice that late."""
        while True:
            await self.resting.wait()
            await self._clock.sleep(after_s)
            before = self._clock.monotonic() - after_s
            later = [fleet.freeze(before) for fleet in self._fleets]
            if not any(later):
                self.resting.clear()

    async def tend(self) -> None:
        """End what is dead, unused or old, and what the host has no memory for."""
        look_s = min(LOOK_S, self._limits.idle_s / 4, self._limits.max_age_s / 4)
        while True:
            await self.occupied.wait()
            await self._clock.sleep(look_s)
            now = self._clock.monotonic()
            for fleet in self._fleets:
                for member in list(fleet.spent(now, self._limits.idle_s)):
                    self._end(member)
                if fleet.missing(now):
                    fleet.short.set()
            self._weigh_some()
            self._relieve()
            if not any(fleet.members for fleet in self._fleets):
                self.occupied.clear()

    def _weigh_some(self) -> None:
        """The next few that may have grown; of frozen ones fewer, for they should not."""
        frozen, thawed = list[Member](), list[Member]()
        for fleet in self._fleets:
            for member in fleet.members:
                (frozen if member.stage is Stage.FROZEN else thawed).append(member)
        self._turn = self._weigh(thawed, self._turn, WEIGHED_AT_ONCE)
        self._frozen_turn = self._weigh(frozen, self._frozen_turn, FROZEN_AT_ONCE)

    def _weigh(self, members: list[Member], turn: int, at_once: int) -> int:
        """Weigh those whose turn it is; returns the next turn."""
        first = turn if turn < len(members) else 0
        for member in members[first : first + at_once]:
            self._weights.weigh(member)
        return first + at_once

    def _relieve(self) -> None:
        """End half of the idle ones while the host runs short; else what is above the budget."""
        idle = sorted((m for fleet in self._fleets for m in fleet.spared), key=lambda m: m.idle_since)
        short = self._runs_short()
        if short and not self._short:
            extra = {"idle": len(idle), "held_mb": self._weights.held_kb // 1024}
            logger.warning("host is short of memory, idle environments are ended", extra=extra)
        self._short = short
        for member in idle[: (len(idle) + 1) // 2] if short else self._above_budget(idle):
            self._end(member)

    def _above_budget(self, idle: list[Member]) -> list[Member]:
        if self._limits.memory_mb is None:
            return []
        excess_kb = self._weights.held_kb - self._limits.memory_mb * 1024
        chosen: list[Member] = []
        for member in idle:
            if excess_kb <= 0:
                break
            chosen.append(member)
            excess_kb -= member.size_kb
        return chosen
