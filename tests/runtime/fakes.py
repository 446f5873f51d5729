"""A sandbox in memory, and a pool on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from millstream.contract.clock import Clock
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionFailed, FunctionSpec, Outcome, Success
from millstream.contract.ports import LogSink
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.fleet import FunctionState
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool
from tests.clock import VirtualClock
from tests.fakes import FAILURE, FUNCTION


def function(name: str = "f", **spec: Any) -> FunctionSpec:
    return replace(FUNCTION, name=name, **spec)


@dataclass(eq=False)
class FakeEnvironment:
    """Answers with its number. Event 0: at once. n > 0: after n s. -1: fails. -2: dies and fails."""

    number: int
    function: FunctionSpec
    clock: Clock
    prepared_s: float = 0.0
    init_failure: FunctionFailed | None = None
    memory_kb: int = 0
    alive: bool = True
    frozen: bool = False
    running: bool = False
    prepared: bool = False
    freezes: int = 0
    closed: int = 0
    busy: bool = False

    async def idle(self) -> None:
        assert not self.busy

    async def prepare(self) -> FunctionFailed | None:
        await self.clock.sleep(self.prepared_s)
        self.prepared = self.init_failure is None
        return self.init_failure

    async def invoke(self, event: bytes, request_id: str) -> Outcome:
        assert self.alive
        assert not self.running
        assert not self.closed
        self.frozen = False
        self.running = True
        wanted = msgspec.json.decode(event)
        try:
            if wanted > 0:
                await self.clock.sleep(wanted)
        finally:
            self.running = False
        self.alive = self.alive and wanted != -2
        if wanted < 0 or self.closed:  # closed meanwhile: cut off
            return FAILURE
        return Success(str(self.number).encode(), request_id)

    def freeze(self) -> None:
        assert not self.running
        assert not self.frozen
        self.frozen = True
        self.freezes += 1

    async def aclose(self) -> None:
        self.closed += 1
        self.alive = False
        await asyncio.sleep(0)


@dataclass
class FakeSandbox:
    """Makes fakes, and keeps all that it made; refuses while `full`."""

    clock: Clock
    made: list[FakeEnvironment] = field(default_factory=list)
    full: bool = False
    creation_s: float = 0.0
    prepared_s: float = 0.0
    init_failure: FunctionFailed | None = None
    memory_mb: int = 0

    def limits(self) -> str:
        return "none"

    async def start(self) -> None:
        pass

    async def create(self, function: FunctionSpec, log: LogSink) -> FakeEnvironment:
        await self.clock.sleep(self.creation_s)
        if self.full:
            raise SandboxUnavailable("full")
        made = FakeEnvironment(
            len(self.made), function, self.clock, self.prepared_s, self.init_failure, self.memory_mb * 1024
        )
        self.made.append(made)
        return made

    async def aclose(self) -> None:
        pass

    @property
    def open(self) -> list[FakeEnvironment]:
        return [environment for environment in self.made if not environment.closed]


@dataclass
class PoolRig:
    """A pool on a fake sandbox, and what a test wants of it."""

    pool: RuntimePool
    sandbox: FakeSandbox
    clock: VirtualClock
    ledger: ConcurrencyLedger
    group: asyncio.TaskGroup
    short: bool = False

    async def invoke(self, wanted: float = 0, name: str = "f") -> Outcome:
        return await self.pool.invoke(name, msgspec.json.encode(wanted))

    async def answer(self, wanted: float = 0, name: str = "f") -> int:
        """The number of the environment that ran it."""
        outcome = await self.invoke(wanted, name)
        assert isinstance(outcome, Success), outcome
        return int(outcome.payload)

    async def begin(self, count: int, wanted: float = 1.0, name: str = "f") -> list[asyncio.Task[Outcome]]:
        """That many invocations, under way."""
        tasks = [self.group.create_task(self.invoke(wanted, name)) for _ in range(count)]
        await self.clock.settle()
        return tasks

    async def run(self, count: int, name: str = "f") -> list[int]:
        """That many at once, to their end: the numbers of their environments."""
        tasks = await self.begin(count, 0.01, name)
        await self.clock.advance(0.01)
        outcomes = [task.result() for task in tasks]
        return [int(outcome.payload) for outcome in outcomes if isinstance(outcome, Success)]

    def state(self, name: str = "f") -> FunctionState:
        (found,) = (state for state in self.pool.state() if state.name == name)
        return found


@asynccontextmanager
async def pool_rig(
    folder: Path,
    *functions: FunctionSpec,
    account: int = 1000,
    sandbox: Callable[[VirtualClock], FakeSandbox] = FakeSandbox,
    chances: Sequence[float] = (0.5,),
    checked: bool = True,
    **options: Any,
) -> AsyncIterator[PoolRig]:
    """A running pool; `chances` come around again. If `checked`, nothing may be left behind."""
    clock = VirtualClock()
    made = sandbox(clock)
    specs = {spec.name: spec for spec in functions or (function(),)}
    ledger = ConcurrencyLedger(account, specs.values())
    turn = iter(range(1_000_000))
    pool = RuntimePool(
        specs,
        made,
        ledger,
        FunctionLogs(folder),
        clock,
        options.pop("idle_s", 300.0),
        runs_short=lambda: it.short,
        chance=lambda: chances[next(turn) % len(chances)],
        **options,
    )
    async with pool, asyncio.TaskGroup() as group:
        it = PoolRig(pool, made, clock, ledger, group)
        yield it
        for _ in range(3):
            await clock.advance(60.0)
    if checked:
        assert_nothing_is_left(it)


def assert_nothing_is_left(it: PoolRig) -> None:
    """Every environment was closed once, and nothing is counted any more."""
    assert [environment.closed for environment in it.sandbox.made] == [1] * len(it.sandbox.made)
    assert it.ledger.in_pool == 0
    for state in it.pool.state():
        assert it.ledger.running(state.name) == 0
        assert (state.busy, state.idle, state.frozen, state.held_mb) == (0, 0, 0, 0)
    assert it.pool.held_mb == 0
    assert not it.pool.retiring
