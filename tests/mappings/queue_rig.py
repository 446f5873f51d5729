"""A queue runner with ports in memory and a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from millstream.contract.functions import Outcome
from millstream.contract.ports import BatchLimits, Capabilities, QueuePolicy
from millstream.contract.records import Record
from millstream.mappings.batcher import room_bytes as room_for
from millstream.mappings.filters import compile_filters
from millstream.mappings.process import Processor, Route
from millstream.mappings.queue import QueueRunner, QueueSettings
from millstream.mappings.scaling import scaler_of
from tests.clock import VirtualClock
from tests.fakes import (
    FUNCTION,
    SUCCESS,
    FakeDestination,
    FakeFunction,
    FakeObserver,
    FakeQueue,
    FakeTrigger,
)


@dataclass
class Rig:
    clock: VirtualClock
    queue: FakeQueue
    function: FakeFunction
    destination: FakeDestination
    observer: FakeObserver
    runner: QueueRunner
    running: asyncio.Task[None]

    async def until_settled(self, count: int, within_s: float = 600.0) -> None:
        """Let time pass until so many records are off the queue."""
        for _ in range(int(within_s / 0.5)):
            if len(self.queue.deleted) >= count:
                return
            await self.clock.advance(0.5)
        raise AssertionError(f"{len(self.queue.deleted)} of {count} settled after {within_s} s")


@asynccontextmanager
async def rig(
    *records: Record,
    limits: BatchLimits = BatchLimits(10, 0.0),
    policy: QueuePolicy = QueuePolicy(),
    answer: Callable[[list[int]], Outcome] = lambda numbers: SUCCESS,
    takes_s: float = 0.0,
    lease_s: float | None = 30.0,
    ordered: bool = False,
    buffer_bytes: int = 1 << 30,
    filters: tuple[object, ...] = (),
    on_success: bool = False,
    on_failure: bool = True,
    destination: FakeDestination | None = None,
    room_bytes: int | None = None,
    queue: Callable[[VirtualClock, float | None], FakeQueue] = FakeQueue,
) -> AsyncIterator[Rig]:
    clock = VirtualClock()
    source = queue(clock, lease_s)
    source.put(*records)
    function = FakeFunction(clock, answer, takes_s)
    destination, observer = destination or FakeDestination(), FakeObserver()
    trigger = FakeTrigger(source, limits, policy, Capabilities(ordered_by_key=ordered))
    scaler = scaler_of(policy, clock.monotonic())
    route = Route(
        "m", FUNCTION, policy, destination if on_success else None, destination if on_failure else None
    )
    processor = Processor(route, trigger, source, function, scaler, observer, clock)
    compiled = compile_filters(filters, trigger.filter_rules)
    runner = QueueRunner(
        QueueSettings(
            "m",
            limits,
            policy.page,
            ordered,
            room_for(trigger.envelope, ["q"]) if room_bytes is None else room_bytes,
            buffer_bytes,
        ),
        source,
        compiled,
        processor,
        scaler,
        observer,
        clock,
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(runner.run())
        await clock.settle()
        yield Rig(clock, source, function, destination, observer, runner, running)
        runner.stop()
        for _ in range(2000):
            if running.done():
                break
            await clock.advance(0.5)
        assert running.done(), "the runner did not stop"
