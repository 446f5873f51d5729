"""What schedules of every source share: function, destination, observer, and what became of records."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from millstream.contract.errors import DestinationUnavailable, Refused, SourceUnavailable
from millstream.contract.functions import FunctionFailed, Outcome, Success, Throttled, TooLarge
from millstream.contract.outside_json import read
from millstream.contract.ports import InvocationRecord
from millstream.contract.records import DestinationReceipt, Position, Reason, Record
from millstream.mappings.supervise import Runner, Supervisor
from tests.fakes import FakeDestination, FakeObserver
from tests.simulation.schedules import Answers, Event, Move, Policy, Put, Source, Stop, StoreAway, Taking
from tests.virtual_loop import LoopClock

LIMIT_BYTES = 1600
"""What an event may have here: large records pass it alone, and full batches pass it together."""

SMALL_BYTES = 900
"""What a small destination takes: a document without the event of any record."""

HEALS_WITHIN_S = 1500.0


def record(number: int, partition: str, key: int, *, poisoned: bool, large: bool, refused: bool) -> Record:
    """A record whose event tells of itself. Times do not grow from record to record."""
    about = {"n": number, "poisoned": poisoned, "pad": "x" * (LIMIT_BYTES if large else 400)}
    return Record(
        partition=partition,
        position=Position(str(number)),
        item_id=str(number),
        event=msgspec.json.encode(about),
        arrived_at=1000.0 + number * 37 % 11,
        received_at=1020.0,
        ordering_key=f"{partition[0]}/{key}",  # the same in what a partition is split into
        refused=Reason.DESERIALIZATION_ERROR if refused else None,
    )


@dataclass
class Function:
    """Takes batches as it is told to; keeps in which order it took records first."""

    policy: Policy
    answers: Answers = Answers.WELL
    taken: list[int] = field(default_factory=list)

    async def invoke(self, function: str, event: bytes) -> Outcome:
        if len(event) > LIMIT_BYTES:
            return TooLarge(len(event), LIMIT_BYTES)
        records = read(event)["Records"]
        await asyncio.sleep(90.0 if self.answers is Answers.SLOW else 0.01)
        poisoned = [r["n"] for r in records if r["poisoned"]]
        match self.answers:
            case Answers.RAISES:
                return _failed()
            case Answers.POISONED if poisoned:
                return _failed()
            case Answers.PARTLY if poisoned and self.policy.item_failures:
                return self._partly(records, poisoned)
            case Answers.MALFORMED if self.policy.item_failures:
                return Success(b'{"batchItemFailures":[{"itemIdentifier":"\\ud83d"}],"n":1e400}', "r")
            case Answers.THROTTLED:
                return Throttled("ConcurrentInvocationLimitExceeded", 0.0)
            case _:
                self._take([r["n"] for r in records])
                return Success(b'{"note":"\\ud83d","state":{"at":1e400}}', "r")

    def _partly(self, records: Sequence[Any], poisoned: list[int]) -> Outcome:
        first = next(place for place, r in enumerate(records) if r["n"] == poisoned[0])
        self._take([r["n"] for r in records[:first]])
        named = [{"itemIdentifier": str(r["n"])} for r in records[first:]]
        return Success(json.dumps({"batchItemFailures": named, "state": {}}).encode(), "r")

    def _take(self, numbers: list[int]) -> None:
        known = set(self.taken)
        self.taken += [number for number in numbers if number not in known]


def _failed() -> FunctionFailed:
    return FunctionFailed("Exception", "no", b'{"errorType":"Exception"}', "r")


@dataclass
class Destination(FakeDestination):
    """Takes documents as it is told to."""

    taking: Taking = Taking.WELL

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        self.limit_bytes = SMALL_BYTES if self.taking is Taking.SMALL else None
        if self.taking is Taking.AWAY:
            raise DestinationUnavailable("fake: away")
        if self.taking is Taking.FAULTY:
            raise ZeroDivisionError
        return await super().deliver(record)


@dataclass
class Observer(FakeObserver):
    """Keeps which records were given up, and to whom."""

    documented: set[int] = field(default_factory=set)
    lost: list[int] = field(default_factory=list)

    def record_discarded(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        self.documented |= {int(record.item_id) for record in records}

    def records_dropped(self, mapping: str, records: Sequence[Record], reason: Reason) -> None:
        super().records_dropped(mapping, records, reason)
        self.lost += [int(record.item_id) for record in records]


class World(ABC):
    """One source, the daemons that run a mapping on it, and what happens to them."""

    daemons = 1
    keys = 4  # of records, at most

    def __init__(self, policy: Policy) -> None:
        self.clock = LoopClock()
        self.policy = policy
        self.function = Function(policy)
        self.destination = Destination()
        self.observer = Observer()
        self.source = Source.WELL
        self.sent: list[Record] = []
        self._restarting: list[asyncio.Task[None]] = []

    @abstractmethod
    def send(self, records: Sequence[Record]) -> None:
        """Let the source have records."""

    @abstractmethod
    def runner(self, owner: str) -> AbstractAsyncContextManager[Runner]:
        """What a supervisor runs; opened anew each time."""

    @abstractmethod
    def at_rest(self) -> bool:
        """True once the source has nothing more for the mapping, and nothing of it would come again."""

    @abstractmethod
    def partition_of(self, number: int) -> str:
        """The partition that a record is sent to."""

    def move(self, move: Move) -> None:
        """Let the broker move a partition, where it does such things."""
        return

    def store_away(self, away: bool) -> None:
        """Let the store be away, where there is one."""
        return

    def fault(self) -> Exception | None:
        """What the source raises now."""
        match self.source:
            case Source.AWAY:
                return SourceUnavailable("s: away")
            case Source.REFUSES:
                return Refused("s: AccessDenied")
            case Source.FAULTY:
                return ZeroDivisionError("s")
            case _:
                return None

    async def play(self, schedule: Sequence[tuple[float, Event]]) -> None:
        """Let a schedule happen, then heal everything and let the mapping come to rest."""
        async with asyncio.TaskGroup() as group:
            daemons = [_Daemon(self, f"daemon-{n}", group) for n in range(self.daemons)]
            for wait_s, event in schedule:
                await asyncio.sleep(wait_s)
                await self._happen(event, daemons, group)
            self._heal()
            if self._restarting:
                await asyncio.wait(self._restarting)
            async with asyncio.timeout(HEALS_WITHIN_S):
                while not self.at_rest():
                    await asyncio.sleep(5.0)
            for daemon in daemons:
                await daemon.stop()

    async def _happen(self, event: Event, daemons: list[_Daemon], group: asyncio.TaskGroup) -> None:
        match event:
            case Put(records=wanted):
                first = len(self.sent)
                made = [
                    record(
                        n,
                        self.partition_of(n),
                        key % self.keys,
                        poisoned=poisoned,
                        large=large,
                        refused=refused,
                    )
                    for n, (key, poisoned, large, refused) in enumerate(wanted, first)
                ]
                self.sent += made
                self.send(made)
            case Stop() if event.daemon < len(daemons):
                self._restarting.append(group.create_task(daemons[event.daemon].restart(event)))
            case Move():
                self.move(event)
            case StoreAway(for_s=for_s):
                group.create_task(self._store_away(for_s))
            case Answers():
                self.function.answers = event
            case Taking():
                self.destination.taking = event
            case Source():
                self.source = event
            case _:
                pass

    async def _store_away(self, for_s: float) -> None:
        self.store_away(True)
        await asyncio.sleep(for_s)
        self.store_away(False)

    def _heal(self) -> None:
        self.source, self.destination.taking = Source.WELL, Taking.WELL
        self.function.answers = Answers.WELL
        self.store_away(False)


class _Daemon:
    """Runs the mapping under one name, from start to stop or kill, and again."""

    def __init__(self, world: World, owner: str, group: asyncio.TaskGroup) -> None:
        self._world = world
        self._owner = owner
        self._group = group
        self._life = 0
        self._supervisor: Supervisor | None = None
        self._task: asyncio.Task[None] | None = None
        self.start()

    def start(self) -> None:
        if self._task is not None:
            return
        self._life += 1
        owner, world = f"{self._owner}/{self._life}", self._world
        self._supervisor = Supervisor("m", lambda: world.runner(owner), world.observer, world.clock)
        self._task = self._group.create_task(self._run(self._supervisor))

    async def stop(self, *, killed: bool = False) -> None:
        if self._task is None or self._supervisor is None:
            return
        task, self._task = self._task, None
        self._supervisor.stop()
        if killed:
            task.cancel()
        await asyncio.wait([task], timeout=HEALS_WITHIN_S)
        assert task.done(), "the mapping did not stop"

    async def restart(self, stop: Stop) -> None:
        if self._task is None:
            return  # it is being restarted already
        await self.stop(killed=stop.killed)
        await asyncio.sleep(stop.away_s)
        self.start()

    async def _run(self, supervisor: Supervisor) -> None:
        await supervisor.run()


@asynccontextmanager
async def opened(runner: Runner) -> AsyncIterator[Runner]:
    """A runner that nothing need be closed for."""
    yield runner
