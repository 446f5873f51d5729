"""Runs one mapping on a source whose broker hands out the partitions and keeps the cursors.

assigned ──► reading ── revoked: finish softly, in time ──► cursor written ── done ──► another member's
                └────── lost: end at once, write nothing ──────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from millstream.contract.clock import Clock
from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    Refused,
    SourceUnavailable,
    StateUnavailable,
)
from millstream.contract.groups import Assigned, Change, GroupSource, Revoked
from millstream.contract.ports import Observer
from millstream.contract.state import Lease, StateStore
from millstream.contract.streams import At, Latest, StartingPosition, StreamReader
from millstream.mappings.reading import read_on
from millstream.mappings.stream import StreamRunner
from millstream.mappings.tenure import Tenure

logger = logging.getLogger(__name__)

LOST = "partition lost, another member reads on"


@dataclass(slots=True)
class _Unit:
    """Partitions that are read by one runner."""

    leases: Sequence[Lease]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    runner: StreamRunner | None = None  # None: being opened, or waiting to be
    task: asyncio.Task[None] | None = None  # None: not begun; one that is cancelled before never ends
    stopping: bool = False

    @property
    def name(self) -> str:
        return ", ".join(lease.partition for lease in self.leases)


class GroupRunner:
    """Implements the supervisor's Runner for consumer groups.

    `make` builds the runner of one partition, or of all that share batches, for their reader, their
    leases and how long these hold, and its share (0 to 1) of what the mapping may hold in memory.
    """

    def __init__(
        self,
        mapping: str,
        owner: str,
        source: GroupSource,
        starting_position: StartingPosition,
        share_batches: bool,
        store: StateStore,
        make: Callable[[StreamReader, Sequence[Lease], Tenure, float], StreamRunner],
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._mapping = mapping
        self._owner = owner
        self._source = source
        self._starting_position = starting_position
        self._share_batches = share_batches
        self._store = store
        self._make = make
        self._observer = observer
        self._clock = clock
        self._tenure = Tenure(clock, math.inf)  # the broker itself refuses what a stale member writes
        self._units: list[_Unit] = []
        self._shared: list[Lease] = []  # all that share batches, those included that wait to be read
        self._waiting: asyncio.Task[None] | None = None  # the follower's own task, while it only waits
        self._stopping = False
        self._gone: Refused | InvalidConfiguration | SourceUnavailable | None = None

    async def begin(self) -> None:
        """Join the group, which fixes where partitions without a cursor start.

        Before the mapping is said to be enabled: from then on LATEST misses nothing.

        Raises:
            Refused, InvalidConfiguration: the source is gone.
            SourceUnavailable: it cannot begin, for its source or its state does not answer.
        """
        position = self._starting_position
        if not isinstance(position, Latest):
            await self._source.join(position)
            return
        marked = await self._source.mark()
        try:
            started_at = await self._store.started_at(self._mapping, marked)
        except StateUnavailable as unavailable:
            raise SourceUnavailable(str(unavailable)) from unavailable
        await self._source.join(At(started_at), marked=started_at == marked)

    async def run(self) -> None:
        """Read what the group assigns until stopped, then finish softly; once it has begun.

        Raises:
            Refused, InvalidConfiguration: the source is gone; what was read is resolved first.
            SourceUnavailable: it does not answer; the membership is over.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(group))
        if self._gone is not None:
            raise self._gone

    def stop(self) -> None:
        """End softly: what was invoked is resolved, the rest is read again another time."""
        self._stopping = True
        for unit in self._units:
            _stop(unit)
        self._stop_waiting()

    async def backlog(self) -> int | None:
        """No group says how many records wait; its iterator age does."""
        return None

    @property
    def details(self) -> Mapping[str, str]:
        """What the source says of its membership."""
        return self._source.details

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        while (change := await self._next()) is not None:
            match change:
                case Assigned():
                    await self._assigned(change, group)
                case Revoked():
                    await self._revoked(change, group)

    async def _next(self) -> Change | None:
        """The next change; while this member ends, its units still have to give up what is revoked."""
        task = asyncio.current_task()
        assert task is not None
        while self._units or not self._ending:
            self._waiting = task
            try:
                return await self._source.change()
            except asyncio.CancelledError:
                if not self._ending:
                    raise
                task.uncancel()  # it was woken only
            except (Refused, InvalidConfiguration, SourceUnavailable) as gone:
                self._gone = self._gone or gone
                self._waiting = None
                await self._finish(self._units, math.inf)
            finally:
                self._waiting = None
        return None

    @property
    def _ending(self) -> bool:
        return self._stopping or self._gone is not None

    async def _assigned(self, change: Assigned, group: asyncio.TaskGroup) -> None:
        if self._ending:
            return  # left unread; another member has it once this one has left
        self._observer.poll_recovered(self._mapping)
        leases = [Lease(self._mapping, p, self._owner, change.epoch) for p in change.partitions]
        if self._share_batches:
            self._shared += leases
            self._regroup(group)
        else:
            for lease in leases:
                self._begin([lease], group)

    async def _revoked(self, change: Revoked, group: asyncio.TaskGroup) -> None:
        given = set(change.partitions)
        self._shared = [lease for lease in self._shared if lease.partition not in given]
        units = [unit for unit in self._units if any(lease.partition in given for lease in unit.leases)]
        await self._finish(units, change.within_s)
        change.done()
        if self._share_batches and not self._units:
            self._regroup(group)

    def _regroup(self, group: asyncio.TaskGroup) -> None:
        """Have all partitions that share batches read together, once what reads some of them has ended."""
        if self._units:
            for unit in self._units:
                _stop(unit)  # its end begins the next one: no revocation waits for it meanwhile
        else:
            self._begin(self._shared, group)

    def _begin(self, leases: Sequence[Lease], group: asyncio.TaskGroup) -> None:
        if not leases or self._ending:
            return
        unit = _Unit(list(leases))
        self._units.append(unit)
        group.create_task(self._hold(unit, group))
        self._tell()

    async def _finish(self, units: Sequence[_Unit], within_s: float) -> None:
        """Have units end softly, and at once when their time is over."""
        units = list(units)
        for unit in units:
            _stop(unit)
        async with asyncio.TaskGroup() as group:
            timer = group.create_task(self._cut(units, within_s))
            for unit in units:
                await unit.over.wait()
            timer.cancel()

    async def _cut(self, units: Sequence[_Unit], after_s: float) -> None:
        if after_s == math.inf:
            return
        await self._clock.sleep(after_s)
        why = "not finished in time, another member reads it again" if after_s else LOST
        for unit in units:
            if unit.task is not None and not unit.over.is_set():
                logger.warning(why, extra={"mapping": self._mapping, "partition": unit.name})
                unit.task.cancel()

    async def _hold(self, unit: _Unit, group: asyncio.TaskGroup) -> None:
        unit.task = asyncio.current_task()
        try:
            await read_on(
                lambda: self._read(unit),
                lambda: unit.stopping,
                self._mapping,
                unit.name,
                self._observer,
                self._clock,
            )
        except LeaseLost:
            extra = {"mapping": self._mapping, "partition": unit.name}
            logger.warning(LOST, extra=extra)
        except (PartitionGone, Refused, InvalidConfiguration) as gone:
            self._gone = self._gone or _refusal(gone)
            for other in self._units:
                _stop(other)
        finally:
            self._units.remove(unit)
            unit.over.set()
            self._tell()
            if self._ending and not self._units:
                self._stop_waiting()
            elif unit.stopping and not self._units and self._share_batches:
                self._begin(self._shared, group)

    async def _read(self, unit: _Unit) -> bool:
        reader = await self._source.reader(unit.leases)
        try:
            share = len(unit.leases) / max(sum(len(each.leases) for each in self._units), 1)
            unit.runner = self._make(reader, unit.leases, self._tenure, share)
            if unit.stopping:
                return False
            return await unit.runner.run()
        finally:
            unit.runner = None
            await reader.aclose()

    def _tell(self) -> None:
        held = sum(len(unit.leases) for unit in self._units)
        self._observer.partitions_changed(self._mapping, held)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()


def _stop(unit: _Unit) -> None:
    if unit.stopping:
        return
    unit.stopping = True
    if unit.runner is not None:
        unit.runner.stop()
    elif unit.task is not None:
        unit.task.cancel()


def _refusal(gone: PartitionGone | Refused | InvalidConfiguration) -> Refused | InvalidConfiguration:
    """A partition that a broker has handed out and does not have is a refusal: it hands out others then."""
    return Refused(str(gone)) if isinstance(gone, PartitionGone) else gone
