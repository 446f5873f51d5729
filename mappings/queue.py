"""Runs one mapping on a queue: poll, filter, batch, hand over to processing, within its permits.

                 ┌─ room? ── poll ── filter ──┬─ no match: settled at once
 permits ────────┤                            └─ open batch ── full or due ── ready ── running
 (concurrency)   └── taken until the batch is resolved, or rests ◄────────────▲───────────┤
                                                                              └─ resting ◄┘ failed

A poll starts only where a permit is free for what it may bring, and where its bytes fit in the mapping's
buffer, so what is held in memory is bounded, whatever waits in the queue. A batch that has filled the buffer
is sent before its window ends. What rests before it is tried again in place leaves its permit to others, as
long as no more batches rest than may run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from millstream.contract.backoff import Backoff
from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, Refused, SourceUnavailable
from millstream.contract.ports import BatchLimits, Observer, QueueReader
from millstream.contract.records import Batch, By, Done, Record, resolve_all
from millstream.contract.waiting import pause
from millstream.mappings.batcher import Batcher, split
from millstream.mappings.filters import Filters
from millstream.mappings.process import Chain, Processor, Rest
from millstream.mappings.scaling import Scaler

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
"""Waits between polls of a source that does not answer: the first, doubled up to the longest."""

LONG_POLL_S = 20.0
"""How long a poll waits on an idle queue; SQS's own maximum."""

LOOK_S = 1.0
"""How often the scaler is told how many permits are taken."""

COPIES = 2
"""A record that is on its way to the function is held twice: by itself, and in its event."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What of a mapping steers its runner."""

    mapping: str
    limits: BatchLimits
    page: int  # records that one poll asks for at most
    ordered: bool  # records of one ordering key must not overtake each other
    room_bytes: int  # what an event has for its records
    buffer_bytes: int  # what may be held in memory


class QueueRunner:
    """One mapping on a queue, from `run` until `stop`."""

    def __init__(
        self,
        settings: QueueSettings,
        reader: QueueReader,
        filters: Filters,
        processor: Processor,
        scaler: Scaler,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._filters = filters
        self._processor = processor
        self._scaler = scaler
        self._observer = observer
        self._clock = clock
        self._open = self._new_batcher()
        self._due: asyncio.Task[None] | None = None  # sends the open batch when its window ends
        self._ready: deque[Chain] = deque()  # chains that wait for a permit
        self._running = 0  # chains that hold a permit
        self._resting = 0  # chains that are tried again after a while
        self._reserved = 0  # records that the polls in flight may bring
        self._peaked = False  # every permit was taken, since it was looked last
        self._sorting = 0  # records that the filters look at
        self._dropping = 0  # filtered batches that are being settled
        self._polls: set[asyncio.Task[None] | None] = set()
        self._changed = asyncio.Event()
        self._received = asyncio.Event()  # a poll has brought something, since the scaler was at rest
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Poll until stopped, then finish what was received.

        Raises:
            Refused, InvalidConfiguration: the source is gone; what was received is finished first.
        """
        gone: Exception | None = None
        async with asyncio.TaskGroup() as running:
            beside = [running.create_task(self._processor.hidden.beat()), running.create_task(self._look())]
            try:
                async with asyncio.TaskGroup() as polls:
                    await self._poll_while_wanted(polls, running)
            except* (Refused, InvalidConfiguration) as refusals:
                gone = refusals.exceptions[0]
                self._stopping.set()
            await self._drain(running)
            for task in beside:
                task.cancel()
        if gone is not None:
            raise gone

    def stop(self) -> None:
        """End softly: no further poll; what was received is finished and settled."""
        self._stopping.set()
        for poll in self._polls:
            if poll is not None:
                poll.cancel()
        self._changed.set()

    async def backlog(self) -> int | None:
        """About how many records wait in the queue. None: the source does not say."""
        return await self._reader.backlog()

    @property
    def details(self) -> Mapping[str, str]:
        """Nothing beyond what is shown of every mapping."""
        return {}

    async def _poll_while_wanted(self, polls: asyncio.TaskGroup, running: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            while len(self._polls) < self._scaler.pollers and (limit := self._room()) > 0:
                self._reserved += limit
                self._polls.add(polls.create_task(self._poll(limit, running)))
            if self._cannot_grow:
                self._send_open(running)
            await self._changed.wait()
            self._changed.clear()

    @property
    def _cannot_grow(self) -> bool:
        """True if the open batch has taken the buffer, and nothing gives any of it back before it is sent."""
        busy = self._polls or self._sorting or self._running or self._ready or self._dropping
        return len(self._open) > 0 and not busy and self._bytes_room() <= 0

    async def _look(self) -> None:
        """Let the scaler know, while nothing is polled too, whether every permit was taken."""
        while True:
            if self._scaler.at_rest:  # an idle mapping wakes nobody each second
                self._received.clear()
                await self._received.wait()
                self._scaler.looked(False, self._clock.monotonic())
            await self._clock.sleep(LOOK_S)
            before = self._scaler.concurrency
            self._scaler.looked(self._peaked or self._saturated, self._clock.monotonic())
            self._peaked = False
            if self._scaler.concurrency > before:
                self._changed.set()

    @property
    def _saturated(self) -> bool:
        taken = self._running + len(self._ready) + (len(self._open) > 0)
        return taken >= self._scaler.concurrency

    def _room(self) -> int:
        """Records that one more poll may bring: what free permits and bytes can take, a page at most."""
        size, concurrency = self._settings.limits.size, self._scaler.concurrency
        taken = self._running + len(self._ready)
        free = min(concurrency - taken, 2 * concurrency - taken - self._resting)
        held = len(self._open) + self._reserved + self._sorting
        return min(self._settings.page, size, free * size - held, self._bytes_room() - self._reserved)

    def _bytes_room(self) -> int:
        """Records that there are bytes for; one at least where nothing is held."""
        hidden = self._processor.hidden
        left = self._settings.buffer_bytes - COPIES * hidden.bytes
        room = left // max(COPIES * hidden.mean_bytes, 1)
        return max(room, 1) if hidden.bytes == 0 else room

    async def _poll(self, limit: int, running: asyncio.TaskGroup) -> None:
        try:
            records = await self._receive(limit)
        finally:
            self._reserved -= limit
            self._polls.discard(asyncio.current_task())
            self._changed.set()
        # From here to the end nothing awaits: a cancelled poll drops no record.
        self._scaler.polled(limit, len(records))
        if records:
            self._received.set()
            self._observer.records_received(self._settings.mapping, len(records))
            self._processor.hidden.hold(records)
            if self._filters:  # in a task that no stop cancels
                self._sorting += len(records)
                running.create_task(self._sort(records, running))
            else:
                self._take(records, running)

    async def _receive(self, limit: int) -> Sequence[Record]:
        """Records; while the source does not answer, asks again and again with backoff."""
        wait_s, backoff = self._wait_s(), Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        failed = False
        while True:
            try:
                records = await self._reader.receive(limit, wait_s)
            except SourceUnavailable as unavailable:
                self._observer.poll_failed(self._settings.mapping, str(unavailable))
                failed = True
            else:
                if failed:
                    self._observer.poll_recovered(self._settings.mapping)
                return records
            wait_s = 0.0
            await self._clock.sleep(backoff.wait_s(self._clock.monotonic()))

    def _wait_s(self) -> float:
        due_at = self._open.due_at
        return LONG_POLL_S if due_at is None else max(0.0, min(LONG_POLL_S, due_at - self._clock.monotonic()))

    async def _sort(self, records: Sequence[Record], running: asyncio.TaskGroup) -> None:
        """Go on with the records that match; the others are taken off the queue beside."""
        matched, dropped = await self._filters.split(records, self._clock)
        self._sorting -= len(records)
        if dropped:
            self._observer.records_filtered(self._settings.mapping, len(dropped))
            self._dropping += 1
            running.create_task(self._drop(Batch(tuple(dropped))))
        self._take(matched, running)
        self._changed.set()

    async def _drop(self, filtered: Batch) -> None:
        try:
            await self._processor.settle(resolve_all(filtered, Done(By.FILTER)))
        finally:
            self._dropping -= 1
            self._changed.set()

    def _take(self, records: Sequence[Record], running: asyncio.TaskGroup) -> None:
        if self._settings.ordered:
            # One poll's batches follow one another under one permit: none overtakes its group.
            if records:
                batches = split(records, self._settings.limits, self._settings.room_bytes)
                self._send(Chain(tuple(batches)), running)
            return
        while records:
            records = self._open.add(records, self._clock.monotonic())
            if self._open.full or self._settings.limits.window_s == 0:
                self._send_open(running)
        if len(self._open) and self._due is None:
            self._due = running.create_task(self._send_when_due(self._open, running))

    async def _send_when_due(self, batcher: Batcher, running: asyncio.TaskGroup) -> None:
        due_at = batcher.due_at
        if due_at is not None:
            await self._clock.sleep(due_at - self._clock.monotonic())
        self._due = None
        self._send_open(running)

    def _send_open(self, running: asyncio.TaskGroup) -> None:
        batcher, self._open = self._open, self._new_batcher()
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._send(Chain((batcher.batch(),)), running)

    def _send(self, chain: Chain, running: asyncio.TaskGroup) -> None:
        self._ready.append(chain)
        self._start_ready(running)

    def _start_ready(self, running: asyncio.TaskGroup) -> None:
        while self._ready and self._running < max(self._scaler.concurrency, 1):
            self._running += 1
            running.create_task(self._run_chain(self._ready.popleft(), running))
        self._peaked = self._peaked or self._saturated

    async def _run_chain(self, chain: Chain, running: asyncio.TaskGroup) -> None:
        try:
            rest = await self._processor.process(chain)
        finally:
            self._running -= 1
        if rest is not None:
            self._resting += 1
            running.create_task(self._rest(rest, running))
        self._start_ready(running)
        self._changed.set()

    async def _rest(self, rest: Rest, running: asyncio.TaskGroup) -> None:
        """Wait with what failed; once stopped the queue has it back."""
        await pause(self._clock, rest.after_s, self._stopping)
        if self._stopping.is_set():
            await self._processor.give_back(rest.chain)
        else:
            self._send(rest.chain, running)
        self._resting -= 1
        self._changed.set()

    async def _drain(self, running: asyncio.TaskGroup) -> None:
        """Send what is held and wait until it is resolved."""
        while True:
            if len(self._open) and not self._sorting:
                self._send_open(running)
            if not (self._sorting or self._running or self._ready or self._resting or self._dropping):
                return
            self._changed.clear()
            await self._changed.wait()

    def _new_batcher(self) -> Batcher:
        return Batcher(self._settings.limits, self._clock.monotonic(), self._settings.room_bytes)
