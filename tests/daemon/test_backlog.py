"""The table of mappings says what waits in each source; one that does not answer hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from millstream.contract.errors import InvalidConfiguration, Problem, Refused, SourceUnavailable
from millstream.daemon.daemon import backlog_of
from millstream.mappings.supervise import Supervisor
from tests.clock import VirtualClock
from tests.fakes import FakeObserver


@dataclass
class Asked:
    """A runner whose source answers with a number, or a fault."""

    answer: int | Exception
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        await self.stopped.wait()

    def stop(self) -> None:
        self.stopped.set()

    async def backlog(self) -> int | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def details(self) -> Mapping[str, str]:
        return {}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (7, 7),
        (Refused("q: AccessDenied"), None),
        (SourceUnavailable("q: away"), None),
        (InvalidConfiguration([Problem("", "queue", "a queue", "a stream")]), None),
        (TimeoutError(), None),
    ],
)
async def test_a_source_that_does_not_say_how_much_waits_is_no_fault(
    answer: int | Exception, told: int | None
) -> None:
    clock, runner = VirtualClock(), Asked(answer)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Asked]:
        yield runner

    supervisor = Supervisor("m", opened, FakeObserver(), clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        await clock.settle()
        assert await backlog_of(supervisor) == told
        supervisor.stop()
