"""Runs leased partitions of a stream, most often one: read, filter, batch in lanes, resolve, checkpoint.

            room? ── read ── admit ── filter ──┬─ no match: resolved at once
              ▲                                └─ lane of its ordering key ── batch ── function
              └───────── tracker ◄── resolutions ◄───────────────────────────────────────┘
                            └── checkpoint ──► committer ──► store

What is held in memory is bounded by `ReadAhead`, whatever waits in the partitions. A lane that is blocked
and full lets go of what is read for it, which is read again for it later; the checkpoint stays before it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence

from millstream.contract.backoff import Backoff
from millstream.contract.clock import Clock
from millstream.contract.errors import (
    InvalidConfiguration,
    LeaseLost,
    PartitionGone,
    Refused,
    SourceUnavailable,
)
from millstream.contract.ports import Invoker, Observer
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
from millstream.contract.streams import After, Page, StreamReader
from millstream.mappings.batcher import room_bytes
from millstream.mappings.committer import Committer, Cursors
from millstream.mappings.filters import Filters
from millstream.mappings.lane import Lane
from millstream.mappings.lanes import Lanes, ReadAhead
from millstream.mappings.reading import PartitionReader
from millstream.mappings.stream_process import StreamProcessor, StreamRoute
from millstream.mappings.tenure import Tenure
from millstream.mappings.windows import TumblingWindows

logger = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
"""Waits between reads of a source that does not answer: the first, doubled up to the longest."""

WAIT_S = 1.0
"""How long a read may wait for records."""

LATENESS_S = 1.0
"""A tumbling window is over this long after its end, by the clock: for clocks that differ a little."""

TAKEN_AT_ONCE = 1000
"""Records of a page that are taken before others have their turn: some milliseconds."""

MOST_BEYOND = 100_000
"""Records that are read beyond what a blocked lane let go: what comes again at most after a restart."""


class StreamRunner:
    """One partition under its lease, or several whose records share batches.

    Owns the acknowledgement: nothing else calls `cursors.commit`. `run` returns True once its reader
    has ended, all of it is resolved and its last window has had its final call; False once stopped.
    It raises LeaseLost if another daemon took it.
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
        partitions = [lease.partition for lease in leases]
        self._tracker = CursorTracker(*partitions)
        self._committer = Committer(cursors, leases, clock)
        self._windows: TumblingWindows | None = None
        if route.policy.tumbling_window_s:
            size_s = route.policy.tumbling_window_s
            self._windows = TumblingWindows(size_s, partitions[0], event_source_arn)
        self._held: dict[str, Checkpoint] = {}  # the newest of an open window, which is resolved as a whole
        self._room = asyncio.Event()
        processor = StreamProcessor(route, trigger, invoker, observer, clock, self._resolve)
        event_room = room_bytes(trigger.envelope, partitions)
        lanes = [
            Lane(
                trigger.limits,
                event_room,
                processor,
                tenure,
                clock,
                self._room.set,
                self._windows,
                self._release,
            )
            for _ in range(route.policy.lanes)
        ]
        self._lanes = Lanes(lanes, ahead)
        self._tasks = [lane.run for lane in lanes]
        self._last: Record | None = None  # that was read for all lanes
        self._newest_at = -math.inf  # the latest time of a record read for all lanes, of several
        self._pump: asyncio.Task[None] | None = None
        self._ended = False
        self._gone: PartitionGone | Refused | InvalidConfiguration | None = None

    async def run(self) -> bool:
        """Run until the partition ends, or stopped.

        Raises:
            LeaseLost: another daemon owns the partition.
            PartitionGone, Refused, InvalidConfiguration: as StreamReader.read, once all read is resolved.
        """
        lost: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as committing:
                committing.create_task(self._committer.run())
                async with asyncio.TaskGroup() as group:
                    for run in self._tasks:
                        group.create_task(run())
                    self._pump = group.create_task(self._read_all())
                self._committer.close()
        except* LeaseLost as leases:
            lost = leases.exceptions[0]
        if lost is not None:
            raise lost
        if self._gone is not None:
            raise self._gone
        at_rest = not (self._tracker.in_flight or self._lanes.behind or self._held)
        return self._ended and at_rest

    def stop(self) -> None:
        """End softly: no further read; what was invoked is resolved, the rest is read again another time."""
        if self._pump is not None:
            self._pump.cancel()
        self._lanes.stop()

    async def _read_all(self) -> None:
        """Read to the end. Cancelled by `stop`: what it has not handed to a lane yet is read again."""
        try:
            while not self._ended or self._lanes.behind:
                lane = await self._until_room()
                if lane is None:
                    await self._read_on()
                else:
                    await self._read_again(lane)
        except (PartitionGone, Refused, InvalidConfiguration) as gone:
            self._observer.poll_failed(self._mapping, str(gone))
            self._gone = gone
        finally:
            self._lanes.close()

    async def _read_on(self) -> None:
        asked_at = self._clock.now()
        page = await self._read(self._lanes.room())
        ended, read_up_to = page.ended, asked_at - LATENESS_S if page.lag_s == 0.0 else None
        if page.records:  # those that the filters drop tell the time, too
            self._last = page.records[-1]
            read_up_to = self._last.arrived_at
            if len(self._tasks) > 1:
                self._newest_at = max(self._newest_at, *[record.arrived_at for record in page.records])
        starts = range(0, len(page.records), TAKEN_AT_ONCE)
        pieces = deque([page.records[start : start + TAKEN_AT_ONCE] for start in starts])
        del page  # what the filters drop is freed piece by piece: to free a whole page takes milliseconds
        while pieces:
            await self._take(pieces.popleft())
            if pieces:
                await self._clock.sleep(0.0)
        if read_up_to is not None:
            self._lanes.caught_up(read_up_to)
        self._ended = ended

    async def _until_room(self) -> int | None:
        """Wait until something can be read: for a lane that let records go, by its number, or for all."""
        while True:
            self._room.clear()
            self._let_go()
            spent = self._tracker.in_flight >= self._ahead.span or self._tracker.beyond >= MOST_BEYOND
            self._lanes.send_early(all_of_them=spent)
            if (lane := self._lanes.to_read_again) is not None:
                return lane
            if not (self._ended or self._lanes.full or spent):
                return None
            await self._room.wait()

    def _let_go(self) -> None:
        """Have lanes let records go that are blocked, and hold up the others."""
        for lane in self._lanes.to_let_go:
            if self._last is None or not isinstance(self._reader, PartitionReader):
                return
            self._lanes.behind[lane] = self._last.position
            self._tracker.stay(self._last.partition)
            extra = {"mapping": self._mapping, "partition": self._last.partition, "lane": lane}
            logger.warning("lane blocked, the others read on without it", extra=extra)

    async def _read_again(self, lane: int) -> None:
        """Read for one lane what it let go, until it is full or has caught up; then go on where all stood."""
        assert isinstance(self._reader, PartitionReader)
        assert self._last is not None
        caught_up = self._lanes.behind[lane] == self._last.position  # nothing came after it was let go
        await self._reader.seek(After(self._lanes.behind[lane]))
        while not caught_up and self._lanes.has_room(lane):
            page = await self._read(self._lanes.room(lane))
            known, caught_up = self._known(page, self._last)
            of_lane = [record for record in known if self._lanes.of(record) == lane]
            mine, filtered = await self._filters.split(of_lane, self._clock)
            if filtered:
                self._observer.records_filtered(self._mapping, len(filtered))
            if mine:
                self._tracker.admit_again(mine)
                self._lanes.put(mine)
            if known:
                self._lanes.behind[lane] = known[-1].position
        if caught_up:
            del self._lanes.behind[lane]
            if not self._lanes.behind:
                self._offer(self._tracker.caught_up(self._last.partition))
        await self._reader.seek(After(self._last.position))

    def _known(self, page: Page, last: Record) -> tuple[Sequence[Record], bool]:
        """Return what of a page was read before, up to `last`; True if nothing of that comes behind it.

        Where `last` has been trimmed, a record tells that is newer than any before. An empty page tells
        nothing, for records may be behind it; nor does one record that is newer than another, for times need
        not grow, nor the time of a record's receipt, which stands for an unknown one.
        """
        for place, record in enumerate(page.records):
            if record.position == last.position:
                return page.records[: place + 1], True
            if self._newest_at < record.arrived_at != record.received_at:
                return page.records[:place], True
        return page.records, page.ended

    async def _read(self, limit: int) -> Page:
        """A page; while the source does not answer, asks again and again with backoff."""
        backoff, failed = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S), False
        while True:
            try:
                page = await self._reader.read(limit, WAIT_S)
            except SourceUnavailable as unavailable:
                self._observer.poll_failed(self._mapping, str(unavailable))
                failed = True
            else:
                if failed:
                    self._observer.poll_recovered(self._mapping)
                return page
            await self._clock.sleep(backoff.wait_s(self._clock.monotonic()))

    async def _take(self, records: Sequence[Record]) -> None:
        """Hand records of a page to the lanes, but for what belongs to those that let it go."""
        self._observer.records_received(self._mapping, len(records))
        self._tracker.admit(records)
        kept = records
        if self._lanes.behind:
            goes = [self._lanes.of(record) in self._lanes.behind for record in records]
            kept = [record for record, gone in zip(records, goes, strict=True) if not gone]
            self._tracker.let_go([record for record, gone in zip(records, goes, strict=True) if gone])
        matched, dropped = await self._filters.split(kept, self._clock)
        if dropped:
            self._observer.records_filtered(self._mapping, len(dropped))
            self._settle(resolve_all(Batch(tuple(dropped)), Done(By.FILTER)))
        if matched:
            self._lanes.put(matched)

    def _resolve(self, resolution: Resolution) -> None:
        self._lanes.resolved(resolution.batch.records)
        self._settle(resolution)

    def _settle(self, resolution: Resolution) -> None:
        checkpoints = self._tracker.complete(resolution)
        self._room.set()
        self._observer.batch_resolved(self._mapping, resolution)
        self._offer(checkpoints)

    def _offer(self, checkpoints: Sequence[Checkpoint]) -> None:
        if checkpoints:
            self._held |= {checkpoint.partition: checkpoint for checkpoint in checkpoints}
            if self._windows is None or self._windows.window is None:
                self._release()

    def _release(self) -> None:
        """Have checkpoints written; those within a tumbling window wait for the window's end."""
        for checkpoint in self._held.values():
            self._committer.offer(checkpoint)
        self._held = {}
