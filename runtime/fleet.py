"""The environments of one function: which is used next, which are spent, and what was counted.

preparing ──┐ provisioned: its init phase runs ahead of any invocation
            ▼
busy ⇄ idle ── unused for a moment ──► frozen ── invoke ──► busy
  │      │                               │
  └──────┴─── dead, unused, old, short of memory ───► ended: closed once, by the pool
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, TypeAlias

from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import ExecutionEnvironment
from millstream.runtime.fresh import why_fresh

FIRST_GUESS_MB = 64
"""What a function's environment is taken to hold before one was weighed, if it may hold that much."""

Provisioning: TypeAlias = Literal["IN_PROGRESS", "READY", "FAILED"]
"""Source: AWS, GetProvisionedConcurrencyConfig, Status."""


class Stage(Enum):
    """Where an environment is in its life; drawn above."""

    PREPARING = "preparing"
    BUSY = "busy"
    IDLE = "idle"
    FROZEN = "frozen"
    ENDED = "ended"


class Member:
    """One environment, and what the pool knows of it."""

    __slots__ = (
        "closing",
        "environment",
        "fleet",
        "idle_since",
        "prepared",
        "provisioned",
        "retire_at",
        "size_kb",
        "stage",
        "weighed",
    )

    def __init__(
        self,
        fleet: Fleet,
        environment: ExecutionEnvironment,
        retire_at: float,
        size_kb: int,
        provisioned: bool,
    ) -> None:
        self.fleet = fleet
        self.environment = environment
        self.retire_at = retire_at  # monotonic, as idle_since
        self.size_kb = size_kb
        self.provisioned = provisioned  # made ahead; a spare, too, until it is taken
        self.prepared = asyncio.Event()  # of a spare: its init phase is over
        self.stage = Stage.PREPARING if provisioned else Stage.BUSY
        self.idle_since = 0.0
        self.weighed = False  # size_kb is a guess until then
        self.closing: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class FunctionState:
    """One function as a person wants to see it. Counts are since the daemon's start."""

    name: str
    runtime: str
    memory_size_mb: int
    reserved: int | None
    busy: int
    idle: int
    frozen: int
    held_mb: int  # by its environments, about
    provisioned_wanted: int
    provisioned_ready: int
    provisioned_status: Provisioning | None  # None: nothing is provisioned
    provisioned_reason: str
    invocations: int
    errors: int
    spillovers: int  # invocations that found no provisioned environment free
    throttles: dict[str, int] = field(default_factory=dict)  # by reason; neither invocations nor errors
    started_fresh_for: str = ""  # the setting that no forked interpreter heeds; empty: there is none


class Fleet:
    """All environments of a function. The one that was used last is used next, so a quiet one keeps few."""

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec = spec
        self.on_demand = replace(spec, provisioned_concurrency=0)  # as its other environments are told
        self.members: dict[Member, None] = {}  # in the order in which they were made
        self.making = 0  # environments that are not yet members
        self.idle: list[Member] = []  # on demand, by the time of their last use; the frozen ones first
        self.ready: list[Member] = []  # provisioned, in the same order; with snapshots, the spare alone
        self.spare: Member | None = None  # loaded ahead, or nearly; see spares.py
        self.coming: asyncio.Event | None = None  # a spare is being made, and no invocation waits for it
        self.held: set[asyncio.Task[None]] = set()  # of environments that are free when extensions are done
        self.short = asyncio.Event()  # fewer are made ahead than wanted
        self.failure = ""  # why the last provisioned environment was not made
        self.expected_kb = min(spec.memory_size_mb, FIRST_GUESS_MB) * 1024
        self.invocations = 0
        self.errors = 0
        self.spillovers = 0
        self.throttles: Counter[str] = Counter()
        if spec.provisioned_concurrency or spec.snap_start:
            self.short.set()

    def pick(self) -> Member | None:
        """A free environment, busy from now on; a provisioned one where there is one. Never a spare."""
        if self.ready and self.spare is None:
            member = self.ready.pop()
        elif self.idle:
            member = self.idle.pop()
        else:
            return None
        member.stage = Stage.BUSY
        return member

    def take_spare(self) -> Member | None:
        """The spare, busy from now on, and one of the others; it may not be `prepared`."""
        member, self.spare = self.spare, None
        if member is not None:
            if member.stage is not Stage.PREPARING:
                self.ready.remove(member)
            member.provisioned = False
            member.stage = Stage.BUSY
            self.short.set()
        return member

    def put(self, member: Member, now: float) -> None:
        """It is free again."""
        member.stage = Stage.IDLE
        member.idle_since = now
        (self.ready if member.provisioned else self.idle).append(member)

    def drop(self, member: Member) -> None:
        """It is used no more, wherever it was."""
        waiting = self.ready if member.provisioned else self.idle
        if member.stage is Stage.IDLE or member.stage is Stage.FROZEN:
            waiting.remove(member)
        member.stage = Stage.ENDED
        self.members.pop(member, None)
        if member is self.spare:
            self.spare = None
        if member.provisioned or self.spec.snap_start:
            self.short.set()

    def freeze(self, before: float) -> bool:
        """Freeze what is unused since `before`; true if anything is left to freeze later."""
        later = False
        for waiting in (self.idle, self.ready):
            for member in reversed(waiting):
                if member.stage is Stage.FROZEN:
                    break  # and so are those that were used before it
                if member.idle_since <= before:
                    member.environment.freeze()
                    member.stage = Stage.FROZEN
                else:
                    later = True
        return later

    def spent(self, now: float, idle_s: float) -> Iterator[Member]:
        """Free ones that must not be used again. A provisioned one's age is `due`'s affair."""
        for member in (*self.idle, *self.ready):
            over = member.idle_since + idle_s <= now or member.retire_at <= now
            if not member.environment.alive or (over and not member.provisioned):
                yield member

    def due(self, now: float) -> list[Member]:
        """Provisioned ones that are old, and go once others have taken their places."""
        return [m for m in self.members if m.provisioned and m.retire_at <= now]

    def missing(self, now: float) -> int:
        """How many environments must be made ahead."""
        if self.spec.snap_start:
            return int(self._lacks_spare(now))
        fresh = sum(m.provisioned and m.retire_at > now for m in self.members)
        return max(self.spec.provisioned_concurrency - fresh, 0)

    def _lacks_spare(self, now: float) -> bool:
        """True unless there is a fresh one, or as many environments as may run at once."""
        if self.spare is not None and self.spare.retire_at > now:
            return False
        others = len(self.members) - (self.spare is not None)
        return self.spec.reserved_concurrency is None or others < self.spec.reserved_concurrency

    @property
    def spared(self) -> list[Member]:
        """Free ones that may be ended for their memory, each kind by the time of its last use."""
        return self.idle if self.spare is None else [*self.ready, *self.idle]

    def state(self) -> FunctionState:
        """What a person wants to know of it."""
        stages = Counter(member.stage for member in self.members)
        wanted = self.spec.provisioned_concurrency
        ready = sum(m.provisioned and m.stage is not Stage.PREPARING for m in self.members)
        return FunctionState(
            name=self.spec.name,
            runtime=self.spec.runtime,
            memory_size_mb=self.spec.memory_size_mb,
            reserved=self.spec.reserved_concurrency,
            busy=stages[Stage.BUSY],
            idle=stages[Stage.IDLE],
            frozen=stages[Stage.FROZEN],
            held_mb=sum(member.size_kb for member in self.members) // 1024,
            provisioned_wanted=wanted,
            provisioned_ready=min(ready, wanted),
            provisioned_status=self._provisioning(ready) if wanted else None,
            provisioned_reason=self.failure,
            invocations=self.invocations,
            errors=self.errors,
            spillovers=self.spillovers,
            throttles=dict(self.throttles),
            started_fresh_for=why_fresh(self.spec),
        )

    def _provisioning(self, ready: int) -> Provisioning:
        if self.failure:
            return "FAILED"
        return "READY" if ready >= self.spec.provisioned_concurrency else "IN_PROGRESS"


def least_recent(fleets: list[Fleet]) -> Member | None:
    """The free environment, provisioned ones apart, that was used longest ago. O(functions)."""
    oldest = (
        members[0]
        for fleet in fleets
        for members in (fleet.idle, fleet.ready if fleet.spare else [])
        if members
    )
    return min(oldest, key=lambda member: member.idle_since, default=None)
