"""What keeps a mapping running: refusals and faults pass, only a wrong declaration stays. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from millstream.contract.errors import InvalidConfiguration, Problem, Refused, SourceUnavailable
from millstream.mappings.supervise import (
    REFUSED_MOST_S,
    UNAVAILABLE_MOST_S,
    Runner,
    Supervisor,
)
from tests.clock import VirtualClock
from tests.fakes import FakeObserver

WRONG = InvalidConfiguration([Problem("", "queue", "a queue", "a stream")])


@dataclass
class Endless:
    """Runs until it is stopped, or until `fault` is set."""

    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None

    async def run(self) -> None:
        await self.stopped.wait()
        if self.fault is not None:
            raise self.fault

    def stop(self) -> None:
        self.stopped.set()

    def fail(self, fault: Exception) -> None:
        self.fault = fault
        self.stopped.set()

    async def backlog(self) -> int | None:
        return None

    @property
    def details(self) -> Mapping[str, str]:
        return {}


@dataclass
class Source:
    """Opens a runner, or raises; notes when it was asked."""

    clock: VirtualClock
    refuses: Callable[[], Exception | None] = lambda: None
    asked: list[float] = field(default_factory=list)
    runners: list[Endless] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Runner]:
        self.asked.append(self.clock.monotonic())
        if (refusal := self.refuses()) is not None:
            raise refusal
        self.runners.append(Endless())
        yield self.runners[-1]

    @property
    def waits(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked, self.asked[1:], strict=False)]


@asynccontextmanager
async def supervised(source: Source) -> AsyncIterator[tuple[FakeObserver, asyncio.Task[None]]]:
    observer = FakeObserver()
    supervisor = Supervisor("m", source.open, observer, source.clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(supervisor.run())
        await source.clock.settle()
        yield observer, task
        supervisor.stop()
        await source.clock.settle()
        assert task.done()


async def test_what_is_refused_now_is_asked_for_again_and_comes_back_by_itself() -> None:
    refused = True
    source = Source(VirtualClock(), lambda: Refused("orders: AccessDenied") if refused else None)
    async with supervised(source) as (observer, _):
        await source.clock.advance(86_400.0)
        assert set(observer.refusals) == {"orders: AccessDenied"}
        assert max(source.waits) <= REFUSED_MOST_S
        assert len(source.asked) < 86_400 / REFUSED_MOST_S * 3
        refused = False
        await source.clock.advance(REFUSED_MOST_S)
        assert observer.states[-1] == ("Enabled", "")


async def test_what_is_refused_while_it_runs_is_asked_for_again() -> None:
    source = Source(VirtualClock())
    async with supervised(source) as (observer, _):
        source.runners[0].fail(Refused("orders: InvalidClientTokenId"))
        await source.clock.advance(2.0)
        assert observer.refusals == ["orders: InvalidClientTokenId"]
        assert len(source.runners) == 2
        assert observer.states[-1] == ("Enabled", "")


async def test_only_a_wrong_declaration_is_final() -> None:
    source = Source(VirtualClock(), lambda: WRONG)
    async with supervised(source) as (observer, task):
        assert task.done()
        assert observer.states[-1] == ("Disabled", "queue: wanted a queue, found a stream")
        await source.clock.advance(3600.0)
        assert len(source.asked) == 1


async def test_a_source_that_blips_once_a_day_never_waits_long() -> None:
    source = Source(VirtualClock())
    async with supervised(source):
        for day in range(10):
            source.runners[-1].fail(SourceUnavailable("orders: Throttling"))
            await source.clock.advance(1.0)
            assert len(source.runners) == day + 2
            await source.clock.advance(86_400.0)


async def test_a_source_that_stays_away_is_asked_less_and_less() -> None:
    source = Source(VirtualClock(), lambda: SourceUnavailable("orders: EndpointConnectionError"))
    async with supervised(source) as (observer, _):
        await source.clock.advance(600.0)
        assert source.waits[0] <= 0.5
        assert UNAVAILABLE_MOST_S / 2 <= source.waits[-1] <= UNAVAILABLE_MOST_S
        assert len(observer.failed_polls) == len(source.asked)


async def test_a_fault_of_ours_is_named_and_the_mapping_restarted() -> None:
    source = Source(VirtualClock())
    async with supervised(source) as (observer, _):
        source.runners[0].fail(ExceptionGroup("unhandled errors", [ZeroDivisionError()]))
        await source.clock.advance(10.0)
        assert observer.failed_polls == ["ZeroDivisionError, see the daemon's log"]
        assert len(source.runners) == 2


async def test_a_stop_cuts_any_wait_off() -> None:
    source = Source(VirtualClock(), lambda: Refused("orders: AccessDenied"))
    async with supervised(source) as (observer, _):
        await source.clock.advance(3600.0)
    assert observer.states[-1] == ("Stopped", "")
