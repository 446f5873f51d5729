"""Runs one mapping on a stream: finds its partitions, leases its share of them, runs each of these.

unread ── parents ended ──► free ── take ──► leased ── read to its end ──► ended ──► its children are free
                             ▲                 │ share shrinks, stop: finish softly, release
                             └── lease over ◄──┘ killed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from millstream.contract.clock import Clock
from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    Refused,
    SourceUnavailable,
    StateUnavailable,
)
from millstream.contract.ports import Observer
from millstream.contract.state import Lease, PartitionRow, StateStore
from millstream.contract.streams import (
    After,
    At,
    Latest,
    Partition,
    Start,
    StartingPosition,
    StreamReader,
    StreamSource,
)
from millstream.mappings.leases import forgettable, next_look_s, plan_leases
from millstream.mappings.reading import PartitionReader, read_on
from millstream.mappings.stream import StreamRunner
from millstream.mappings.tenure import Tenure

logger = logging.getLogger(__name__)

TICK_S = 2.0
"""Between two looks at the leases, at most; each renews what this daemon holds."""

LEASE_S = 7.0
"""How long a lease lasts without being renewed: how long the partitions of a killed daemon wait."""

MARGIN_S = 1.0
"""What a daemon stops before its leases are over: for clocks that run at different speeds."""

DISCOVER_S = 20.0
"""Between two lists of a stream's partitions; also made when one has ended."""


@dataclass(slots=True)
class _Held:
    """A partition that this daemon reads."""

    lease: Lease
    runner: StreamRunner | None = None  # None: being opened
    task: asyncio.Task[None] | None = None  # None: not begun; one that is cancelled before never ends
    stopping: bool = False


class PartitionsRunner:
    """Implements the supervisor's Runner for streams.

    `make` builds the runner of one partition, for its reader, its lease and how long that holds, and
    its share (0 to 1) of what the mapping may hold in memory.
    """

    def __init__(
        self,
        mapping: str,
        owner: str,
        source: StreamSource,
        starting_position: StartingPosition,
        store: StateStore,
        make: Callable[[StreamReader, Lease, Tenure, float], StreamRunner],
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._mapping = mapping
        self._owner = owner
        self._source = source
        self._starting_position = starting_position
        self._store = store
        self._make = make
        self._observer = observer
        self._clock = clock
        self._start: Start | None = None
        self._partitions: dict[str, Partition] = {}
        self._listed_at: float | None = None  # None: list them at the next look
        self._adopted: str | None = None  # the stream's identity, as the store knows it
        self._held: dict[str, _Held] = {}
        self._tenure = Tenure(clock, LEASE_S - MARGIN_S)
        self._share_of = 1  # partitions that this daemon is to read
        self._wake = asyncio.Event()
        self._rest_s = TICK_S
        self._stopping = False
        self._blind = False  # the store did not answer at the last look
        self._gone: Refused | InvalidConfiguration | None = None

    async def begin(self) -> None:
        """Fix where partitions without a cursor start, once for all daemons and restarts.

        Before the mapping is said to be enabled: from then on LATEST misses nothing.

        Raises:
            Refused, InvalidConfiguration: the stream is gone.
            SourceUnavailable: it cannot begin, for its source or its state does not answer.
        """
        try:
            await self._fix_start()
        except StateUnavailable as unavailable:
            raise SourceUnavailable(str(unavailable)) from unavailable

    async def run(self) -> None:
        """Read the daemon's share until stopped, then finish softly and release it; once it has begun.

        Raises:
            Refused, InvalidConfiguration: the stream is gone; what was read is resolved first.
        """
        async with asyncio.TaskGroup() as group:
            while not self._over():
                await self._try_look(group)
                await self._rest(group)
        await self._leave()
        if self._gone is not None:
            raise self._gone

    def stop(self) -> None:
        """End softly: what was invoked is resolved, the rest is read again another time."""
        self._stopping = True
        self._wake.set()

    async def backlog(self) -> int | None:
        """No stream says how many records wait; its iterator age does."""
        return None

    @property
    def details(self) -> Mapping[str, str]:
        """Nothing beyond what is shown of every mapping."""
        return {}

    async def _fix_start(self) -> None:
        await self._list()
        await self._adopt()
        position = self._starting_position
        if not isinstance(position, Latest):
            self._start = position
            return
        marked = await self._source.mark()
        started_at = await self._store.started_at(self._mapping, marked)
        self._start = At(started_at)
        if started_at == marked:
            # They were closed before the mark was made: none of their records is behind it.
            for partition in self._partitions.values():
                if partition.closed:
                    lease = await self._store.take(self._mapping, partition.id, self._owner, LEASE_S)
                    if lease is not None:
                        await self._store.release(lease, ended=True)

    @property
    def _ending(self) -> bool:
        return self._stopping or self._gone is not None

    def _over(self) -> bool:
        return self._ending and not self._held

    async def _try_look(self, group: asyncio.TaskGroup) -> None:
        """Look; while the store does not answer, what is held is read on and waits with its checkpoints."""
        try:
            await self._look(group)
        except StateUnavailable as unavailable:
            self._observer.poll_failed(self._mapping, str(unavailable))
            self._blind = True
            return
        if self._blind:
            self._observer.poll_recovered(self._mapping)
        self._blind = False

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Renew what is held, and bring it in line with the plan."""
        self._rest_s = TICK_S
        owners = await self._store.announce(self._mapping, self._owner, LEASE_S)
        await self._renew()
        if self._ending:
            self._stop(list(self._held))
            return
        if self._listed_at is None or self._clock.monotonic() - self._listed_at >= DISCOVER_S:
            await self._list_again()
        if self._adopted != self._source.identity:
            await self._adopt()
        rows = await self._store.partitions(self._mapping)
        self._rest_s = next_look_s(rows, self._owner, TICK_S)
        plan = plan_leases(list(self._partitions.values()), rows, owners, self._owner)
        self._stop(plan.give_up)
        own = [row for row in rows if row.owner == self._owner and not row.ended]
        await self._release_unread([row for row in own if row.partition in plan.give_up])
        # Its own without a task are of this daemon before a restart, or their task has just failed.
        wanted = {*self._held, *(row.partition for row in own), *plan.take} - {*plan.give_up}
        self._share_of = len(wanted)
        for partition in [*(row.partition for row in own), *plan.take]:
            if partition not in self._held and partition not in plan.give_up:
                await self._take(partition, group)
        await self._forget(rows)

    async def _renew(self) -> None:
        held = [each.lease for each in self._held.values()]
        asked_at = self._clock.monotonic()
        kept = set(await self._store.renew(held, LEASE_S))
        for lease in held:
            if lease not in kept:
                self._lost(lease)
        self._tenure.renewed(asked_at)

    def _lost(self, lease: Lease) -> None:
        """End at once: whoever has it now reads from the last checkpoint on."""
        held = self._held.get(lease.partition)
        if held is not None and held.lease == lease:
            held.stopping = True
            if held.task is not None:
                held.task.cancel()

    def _stop(self, partitions: Sequence[str]) -> None:
        for partition in partitions:
            held = self._held.get(partition)
            if held is not None and not held.stopping:
                held.stopping = True
                if held.runner is not None:
                    held.runner.stop()
                elif held.task is not None:
                    held.task.cancel()

    async def _take(self, partition: str, group: asyncio.TaskGroup) -> None:
        lease = await self._store.take(self._mapping, partition, self._owner, LEASE_S)
        if lease is None:
            return  # another daemon was quicker
        held = self._held[partition] = _Held(lease)
        group.create_task(self._hold(held))
        self._observer.partitions_changed(self._mapping, len(self._held))

    async def _hold(self, held: _Held) -> None:
        """Read a partition under its lease until it ends, is lost or is to be released."""
        held.task = asyncio.current_task()
        lease, ended, keep = held.lease, False, False
        try:
            ended = await self._until_ended(held)
        except LeaseLost:
            keep = True
            logger.warning("lease lost, another daemon reads on", extra=self._about(lease))
        except (Refused, InvalidConfiguration) as gone:
            self._gone = self._gone or gone
        finally:
            del self._held[lease.partition]
            self._observer.partitions_changed(self._mapping, len(self._held))
            self._wake.set()
        if not keep:
            await self._release(lease, ended)
        if ended:
            self._listed_at = None
            self._wake.set()

    async def _until_ended(self, held: _Held) -> bool:
        """True: read to its end. False: stopped."""
        return await read_on(
            lambda: self._read_or_end(held),
            lambda: held.stopping,
            self._mapping,
            held.lease.partition,
            self._observer,
            self._clock,
        )

    async def _read_or_end(self, held: _Held) -> bool:
        """Read; a partition has ended before its time only if its stream does not list it any more."""
        try:
            return await self._read(held)
        except PartitionGone as gone:
            partition, adopted = held.lease.partition, self._adopted
            await self._list()
            self._wake.set()
            if self._source.identity != adopted:
                raise SourceUnavailable(f"{partition}: its stream was made anew") from gone
            if partition in self._partitions:
                raise SourceUnavailable(f"{partition}: said to be gone, and listed all the same") from gone
            extra = self._about(held.lease, why=str(gone))
            logger.warning("partition gone, what was left unread is lost", extra=extra)
            return True

    async def _read(self, held: _Held) -> bool:
        lease = held.lease
        cursor = await self._store.cursor(lease)
        assert self._start is not None
        start = self._start if cursor is None else After(cursor)
        partition = self._partitions.get(lease.partition, Partition(lease.partition))
        reader = PartitionReader(self._source, partition, start)
        try:
            await reader.open()
            held.runner = self._make(reader, lease, self._tenure, 1 / max(self._share_of, 1))
            self._observer.poll_recovered(self._mapping)
            if held.stopping:
                return False
            return await held.runner.run()
        finally:
            held.runner = None
            await reader.aclose()

    async def _release(self, lease: Lease, ended: bool) -> None:
        try:
            await self._store.release(lease, ended=ended)
        except StateUnavailable as unavailable:  # it runs out by itself; an ended one is read again, and ends
            logger.warning("lease not released", extra=self._about(lease, why=str(unavailable)))

    async def _list_again(self) -> None:
        """The list as it is now; one that cannot be had is asked for at a later look."""
        try:
            await self._list()
        except SourceUnavailable as unavailable:
            self._observer.poll_failed(self._mapping, str(unavailable))
            self._listed_at = self._clock.monotonic()
        except (Refused, InvalidConfiguration) as gone:
            self._gone = gone
            self._wake.set()

    async def _list(self) -> None:
        found = await self._source.partitions()
        self._partitions = {partition.id: partition for partition in found}
        self._listed_at = self._clock.monotonic()

    async def _adopt(self) -> None:
        """Read a stream that was made anew under its name from its beginning; its leases are lost."""
        identity = self._source.identity
        if identity is not None and await self._store.adopt(self._mapping, identity):
            extra = {"mapping": self._mapping, "stream": self._source.event_source_arn}
            logger.warning("stream made anew under its name, it is read from its beginning", extra=extra)
            for held in list(self._held.values()):
                self._lost(held.lease)
        self._adopted = identity

    async def _forget(self, rows: Sequence[PartitionRow]) -> None:
        missing = [r.partition for r in rows if r.partition not in self._partitions and r.missing_s is None]
        found = [r.partition for r in rows if r.partition in self._partitions and r.missing_s is not None]
        if missing or found:
            await self._store.note_missing(self._mapping, missing, found)
        if old := forgettable(rows):
            await self._store.forget(self._mapping, old)

    async def _rest(self, group: asyncio.TaskGroup) -> None:
        """Until the next look is due, or something calls for one."""
        timer = group.create_task(self._ring())
        await self._wake.wait()
        self._wake.clear()
        timer.cancel()

    async def _ring(self) -> None:
        await self._clock.sleep(self._rest_s)
        self._wake.set()

    async def _leave(self) -> None:
        """Let others have it at once; what cannot be written now runs out by itself."""
        with suppress(StateUnavailable):
            rows = await self._store.partitions(self._mapping)
            await self._release_unread([row for row in rows if row.owner == self._owner])
            await self._store.announce(self._mapping, self._owner, 0.0)

    async def _release_unread(self, rows: Sequence[PartitionRow]) -> None:
        for row in rows:
            if row.partition not in self._held:
                lease = Lease(self._mapping, row.partition, self._owner, row.epoch)
                await self._store.release(lease)

    def _about(self, lease: Lease, **fields: object) -> dict[str, object]:
        return {"mapping": self._mapping, "partition": lease.partition, **fields}
