"""Runs leased partitions of a stream, most often one: read, filter, batch in lanes, resolve, checkpoint.

            room? ── read ── admit ── filter ──┬─ no match: resolved at once
              ▲                                └─ lane of its ordering key ── batch ── function
              └───────── tracker ◄── resolutions ◄───────────────────────────────────────┘
                            └── checkpoint ──► committer ──► store

What is held in memory is bounded by `ReadAhead`, whatever waits in the partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, LeaseLost, PartitionGone, SourceUnavailable
from millstream.contract.ports import BatchLimits, Invoker, Observer
from millstream.contract.records import (
    Batch,
    By,
    Checkpoint,
    CursorTracker,
    Done,
    Record,
    Resolution,
    resolve_all,
)
from millstream.contract.state import Lease
from millstream.contract.stream_trigger import StreamTrigger
from millstream.contract.streams import Page, StreamReader
from millstream.mappings.committer import Committer, Cursors
from millstream.mappings.filters import Filters
from millstream.mappings.lane import Lane
from millstream.mappings.stream_process import StreamProcessor, StreamRoute
from millstream.mappings.tenure import Tenure
from millstream.mappings.windows import TumblingWindows

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
"""Waits between reads of a source that does not answer: the first, doubled up to the longest."""

PAGE = 10_000
"""Records that one read asks for at most. Source: AWS, GetRecords."""

WAIT_S = 1.0
"""How long a read may wait for records."""

LATENESS_S = 1.0
"""A tumbling window is over this long after its end, by the clock: for clocks that differ a little."""

LEAST_BYTES = 256 * 1024
MOST_BYTES = 16 * 1024 * 1024
"""Bounds of what one partition may hold, however many there are: below, each record is a read."""

TYPICAL_RECORD_BYTES = 1024
"""Size that records are taken to have before the first one was seen."""


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """How much of one partition is held at most."""

    records: int  # not resolved
    span: int  # read and not behind the checkpoint, resolved ones included
    bytes: int  # of records not resolved


def read_ahead(limits: BatchLimits, lanes: int, buffer_bytes: int) -> ReadAhead:
    """Two batches for each lane, a page at least; of `buffer_bytes` what is of use.

    The read that fills it may bring one answer of the source more, 10 MB with Kinesis.
    """
    records = max(2 * limits.size * lanes, PAGE)
    return ReadAhead(records, 4 * records, min(max(buffer_bytes, LEAST_BYTES), MOST_BYTES))


class StreamRunner:
    """One partition under its lease, or several whose records share batches.

    Owns the acknowledgement: nothing else calls `cursors.commit`. `run` returns True once its reader
    has ended and all of it is resolved, False once stopped; raises LeaseLost if another daemon took it.
    """

    def __init__(
        self,
        route: StreamRoute,
        trigger: StreamTrigger,
        reader: StreamReader,
        event_source_arn: str,
        filters: Filters,
        invoker: Invoker,
        cursors: Cursors,
        leases: Sequence[Lease],
        tenure: Tenure,
        ahead: ReadAhead,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._mapping = route.mapping
        self._reader = reader
        self._filters = filters
        self._ahead = ahead
        self._observer = observer
        self._clock = clock
        self._tracker = CursorTracker(*(lease.partition for lease in leases))
        self._committer = Committer(cursors, leases, clock)
        self._windows: TumblingWindows | None = None
        if route.policy.tumbling_window_s:
            size_s = route.policy.tumbling_window_s
            self._windows = TumblingWindows(size_s, leases[0].partition, event_source_arn)
        self._held: list[Checkpoint] = []  # of an open window, which is resolved as a whole
        processor = StreamProcessor(route, trigger, invoker, observer, clock, self._resolve)
        self._lanes = [
            Lane(trigger.limits, processor, tenure, clock, self._windows, self._release)
            for _ in range(route.policy.lanes)
        ]
        self._records = 0  # not resolved
        self._bytes = 0  # of these
        self._seen = 0  # records ever read, and their bytes
        self._seen_bytes = 0
        self._room = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._ended = False
        self._gone: PartitionGone | InvalidConfiguration | None = None

    async def run(self) -> bool:
        """Run until the partition ends, or stopped.

        Raises:
            LeaseLost: another daemon owns the partition.
            PartitionGone, InvalidConfiguration: as StreamReader.read; what was read is resolved first.
        """
        lost: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as committing:
                committing.create_task(self._committer.run())
                async with asyncio.TaskGroup() as group:
                    for lane in self._lanes:
                        group.create_task(lane.run())
                    self._pump = group.create_task(self._read_all())
                self._committer.close()
        except* LeaseLost as leases:
            lost = leases.exceptions[0]
        if lost is not None:
            raise lost
        if self._gone is not None:
            raise self._gone
        return self._ended and not self._tracker.in_flight

    def stop(self) -> None:
        """End softly: no further read; what was invoked is resolved, the rest is read again another time."""
        if self._pump is not None:
            self._pump.cancel()
        for lane in self._lanes:
            lane.stop()

    async def _read_all(self) -> None:
        """Read to the end. Cancelled by `stop`: it awaits only where nothing is held."""
        try:
            while not self._ended:
                await self._until_room()
                asked_at = self._clock.now()
                page = await self._read()
                self._take(page.records)
                if page.records:  # those that the filters dropped tell the time, too
                    self._say_read_up_to(page.records[-1].arrived_at)
                elif page.lag_s == 0.0:
                    self._say_read_up_to(asked_at - LATENESS_S)
                self._ended = page.ended
        except (PartitionGone, InvalidConfiguration) as gone:
            self._observer.poll_failed(self._mapping, str(gone))
            self._gone = gone
        finally:
            for lane in self._lanes:
                lane.close()

    def _say_read_up_to(self, at: float) -> None:
        for lane in self._lanes:
            lane.caught_up(at)

    async def _until_room(self) -> None:
        """Wait until half of what may be held is free: small reads cost as much as large ones."""
        ahead = self._ahead
        while (
            self._records > ahead.records // 2
            or self._bytes > ahead.bytes // 2
            or self._tracker.in_flight >= ahead.span
        ):
            self._room.clear()
            await self._room.wait()

    async def _read(self) -> Page:
        """A page; while the source does not answer, asks again and again with backoff."""
        size = self._seen_bytes // self._seen if self._seen else TYPICAL_RECORD_BYTES
        room = min(self._ahead.records - self._records, (self._ahead.bytes - self._bytes) // max(size, 1))
        limit = max(1, min(PAGE, room))
        try:
            return await self._reader.read(limit, WAIT_S)
        except SourceUnavailable as unavailable:
            self._observer.poll_failed(self._mapping, str(unavailable))
        await self._clock.sleep(BACKOFF_FIRST_S)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(SourceUnavailable),
            wait=wait_exponential_jitter(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            sleep=self._clock.sleep,
        )
        page: Page = await retrying(self._reader.read, limit, WAIT_S)
        self._observer.poll_recovered(self._mapping)
        return page

    def _take(self, records: Sequence[Record]) -> None:
        """Hand a page to the lanes; nothing here awaits, so a stop drops no record."""
        if not records:
            return
        self._observer.records_received(self._mapping, len(records))
        self._tracker.admit(records)
        size = sum([len(record.event) for record in records])
        self._records += len(records)
        self._bytes += size
        self._seen += len(records)
        self._seen_bytes += size
        matched = self._matched(records)
        if len(self._lanes) == 1:
            if matched:
                self._lanes[0].put(matched)
            return
        shares: dict[int, list[Record]] = {}
        for record in matched:
            lane = crc32((record.ordering_key or "").encode()) % len(self._lanes)
            shares.setdefault(lane, []).append(record)
        for lane, share in shares.items():
            self._lanes[lane].put(share)

    def _matched(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records that match; the others are resolved at once."""
        if not self._filters:
            return records
        matched: list[Record] = []
        dropped: list[Record] = []
        for record in records:
            goes_on = record.refused is not None or self._filters.matches(record)
            (matched if goes_on else dropped).append(record)
        if dropped:
            self._observer.records_filtered(self._mapping, len(dropped))
            self._resolve(resolve_all(Batch(tuple(dropped)), Done(By.FILTER)))
        return matched

    def _resolve(self, resolution: Resolution) -> None:
        records = resolution.batch.records
        checkpoints = self._tracker.complete(resolution)
        self._records -= len(records)
        self._bytes -= sum([len(record.event) for record in records])
        self._room.set()
        self._observer.batch_resolved(self._mapping, resolution)
        if checkpoints:
            self._held += checkpoints
            if self._windows is None or self._windows.window is None:
                self._release()

    def _release(self) -> None:
        """Have checkpoints written; those within a tumbling window wait for the window's end."""
        for checkpoint in self._held:
            self._committer.offer(checkpoint)
        self._held = []
