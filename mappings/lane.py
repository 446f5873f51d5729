"""One lane of a partition: forms batches of what it is given and sees each one through, in order.

put ──► pending ── batch ──► process ── left to do? ──► wait, process …
           ▲        (count, bytes, window)        └── none ──► next batch
           └── the reader stops while lanes hold too much, and a batch that it can add nothing to is sent
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from millstream.contract.clock import Clock
from millstream.contract.ports import BatchLimits
from millstream.contract.records import Batch, Record
from millstream.mappings.batcher import Batcher
from millstream.mappings.stream_decide import Attempt, Retry, delay_s
from millstream.mappings.stream_process import Deliver, Next, StreamProcessor
from millstream.mappings.tenure import Tenure
from millstream.mappings.windows import TumblingWindows

BLOCKED_AFTER = 3
"""Tries in a row without progress after which a lane counts as blocked."""


class Lane:
    """Used by one partition's runner.

    `room_bytes` is what an event has for its records. `changed` is called when the lane has become blocked,
    or is so no more, and when it begins to gather a batch. `windows` are the partition's tumbling windows, if
    it has any; `window_ended` is called when the final call of one has succeeded.
    """

    def __init__(
        self,
        limits: BatchLimits,
        room_bytes: int,
        processor: StreamProcessor,
        tenure: Tenure,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        windows: TumblingWindows | None = None,
        window_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.blocked = False  # it tries the same batch again and again
        self._gathers = False  # it waits for its batch to become full, or for the end of its window
        self._early = False  # the batch that it gathers is to be sent as it is
        self._limits = limits
        self._room_bytes = room_bytes
        self._tell_changed = changed
        self._processor = processor
        self._tenure = tenure
        self._clock = clock
        self._windows = windows
        self._window_ended = window_ended
        self._pending: deque[Sequence[Record]] = deque()
        self._changed = asyncio.Event()
        self._read_up_to = 0.0  # Unix seconds; what arrived before was put
        self._closed = False
        self._stopping = False
        self._cuttable: asyncio.Task[None] | None = None  # the lane's own task, while it only waits

    def put(self, records: Sequence[Record]) -> None:
        """Give it records that follow those given before."""
        size = self._limits.size  # in pieces of a batch: what a batch leaves is copied for the next
        self._pending.extend(records[i : i + size] for i in range(0, len(records), size))
        self._changed.set()

    def caught_up(self, at: float) -> None:
        """Say that all that had arrived at `at` (Unix seconds) was put: windows up to then are over."""
        self._read_up_to = at
        if self._windows is not None:
            self._changed.set()

    def send_early(self) -> None:
        """Send the batch that it gathers, if it does: nothing more can be read before."""
        if self._gathers:
            self._early = True
            self._changed.set()

    def close(self) -> None:
        """Let `run` return once all of it is resolved: nothing more will come."""
        self._closed = True
        self._changed.set()

    def stop(self) -> None:
        """Let `run` return as soon as an invocation that runs has been resolved."""
        self._stopping = True
        if self._cuttable is not None:
            self._cuttable.cancel()

    async def run(self) -> None:
        """See batches through until closed or stopped."""
        opened_at = self._clock.monotonic()
        while not self._stopping and (batch := await self._next(opened_at)) is not None:
            await self._finish(batch)
            opened_at = self._clock.monotonic()

    async def _next(self, opened_at: float) -> Batch | None:
        """The next batch; ends windows on the way. None: closed, and nothing is left."""
        state_bytes = 0 if self._windows is None else self._windows.envelope_bytes
        batcher = Batcher(self._limits, opened_at, self._room_bytes - state_bytes)
        while not self._stopping:
            cut = self._fill(batcher)
            now = self._clock.monotonic()
            due = cut or self._closed or self._early or batcher.full
            if batcher.due_at is not None and (due or now >= batcher.due_at):
                self._early = False
                return batcher.batch()
            if batcher.due_at is not None:
                await self._gather(batcher.due_at - now)
            elif self._window_over(cut):
                await self._end_window()
            elif self._closed and not self._pending:
                return None
            else:
                await self._wait(None)
        return None

    def _fill(self, batcher: Batcher) -> bool:
        """Move records over; True if the next one belongs to another window."""
        while self._pending and not batcher.full:
            records = self._pending.popleft()
            fitting = len(records) if self._windows is None else self._windows.fitting(records)
            taken = records if fitting == len(records) else records[:fitting]
            rest = batcher.add(taken, self._clock.monotonic())
            if fitting < len(records):
                self._pending.appendleft([*rest, *records[fitting:]])
                return not rest
            if rest:
                self._pending.appendleft(rest)
        return False

    def _window_over(self, cut: bool) -> bool:
        windows = self._windows
        if windows is None or windows.window is None:
            return False
        return cut or windows.over(self._read_up_to) or (self._closed and not self._pending)

    async def _end_window(self) -> None:
        """The final call, until it succeeds: no record is behind it, so nothing can be given up."""
        assert self._windows is not None
        waits = 0
        await self._while_held()
        while not await self._processor.finish_window(self._windows):
            waits += 1
            if self._stopping:
                return
            await self._pause(delay_s(waits))
            await self._while_held()
        self._windows.close()
        self._window_ended()

    async def _finish(self, batch: Batch) -> None:
        windows = self._windows
        todo: deque[Next] = deque([Retry(Attempt(batch), 0.0)])
        while todo and not self._stopping:
            step = todo.popleft()
            if step.after_s:
                waits = step.step.waits if isinstance(step, Deliver) else step.attempt.waits
                self._say_blocked(waits >= BLOCKED_AFTER)
                await self._pause(step.after_s)
            await self._while_held()
            if windows is not None and isinstance(step, Retry):
                windows.fitting(step.attempt.batch.records)  # opens one, if the last was ended early
            todo.extendleft(reversed(await self._processor.process(step, windows)))
            if windows is not None and windows.overflowed and not self._stopping:
                await self._end_window()
        self._say_blocked(False)

    def _say_blocked(self, blocked: bool) -> None:
        if blocked is not self.blocked:
            self.blocked = blocked
            self._tell_changed()

    async def _gather(self, at_most_s: float) -> None:
        """Wait for more records of a batch that has some."""
        self._gathers = True
        self._tell_changed()
        try:
            await self._wait(at_most_s)
        finally:
            self._gathers = False

    async def _wait(self, at_most_s: float | None) -> None:
        """Wait for records, for the end, or until the time is over."""
        with self._cut_off_by_stop():
            if at_most_s is None:
                await self._changed.wait()
            else:
                async with asyncio.TaskGroup() as group:
                    timer = group.create_task(self._ring(at_most_s))
                    await self._changed.wait()
                    timer.cancel()
        self._changed.clear()

    async def _while_held(self) -> None:
        """Wait while the lease may be another daemon's by now."""
        if self._tenure.over:
            with self._cut_off_by_stop():
                await self._tenure.resumed()

    async def _pause(self, for_s: float) -> None:
        with self._cut_off_by_stop():
            await self._clock.sleep(for_s)

    @contextmanager
    def _cut_off_by_stop(self) -> Iterator[None]:
        self._cuttable = asyncio.current_task()
        try:
            yield
        finally:
            self._cuttable = None

    async def _ring(self, after_s: float) -> None:
        await self._clock.sleep(after_s)
        self._changed.set()
