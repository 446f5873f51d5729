"""Reads an SQS queue: polls in threads, makes records, extends and settles them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from millstream.contract.blocking import BlockingClient
from millstream.contract.clock import Clock
from millstream.contract.errors import MillstreamError, SourceUnavailable
from millstream.contract.records import Record, Resolution, Returned
from millstream.triggers.sqs_client import PAGE, SqsCalls
from millstream.triggers.sqs_messages import Queue, record
from millstream.triggers.sqs_visibility import Visibility

logger = logging.getLogger(__name__)

POLL_THREADS = 5
SETTLE_THREADS = 8
BEAT_THREADS = 16
THREADS = POLL_THREADS + SETTLE_THREADS + BEAT_THREADS
"""Threads of one mapping, at most: polls, settlements and heartbeats wait for none of the others."""

PAGES_A_BEAT_THREAD = 50
"""Calls of a heartbeat that are made one after the other before another thread helps."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Poll:
    """One call of receive, shared with the thread that makes it."""

    abandoned: bool = False  # nobody waits for its records any more
    brought: Sequence[dict[str, Any]] = ()


class SqsReader:
    """Implements QueueReader. The client is its own, and closed with it."""

    def __init__(self, client: Any, queue: Queue, clock: Clock) -> None:
        self._calls = SqsCalls(client, queue, clock)
        self._queue = queue
        self._clock = clock
        self._polling = BlockingClient(f"sqs-poll-{queue.name}", POLL_THREADS)
        self._settling = BlockingClient(f"sqs-settle-{queue.name}", SETTLE_THREADS)
        self._beating = BlockingClient(f"sqs-beat-{queue.name}", BEAT_THREADS)
        self._visibility = Visibility(queue.visibility_s)  # used by the event loop alone
        self._lock = threading.Lock()
        self._in_flight = 0  # polls
        self._closed = False

    @property
    def lease_s(self) -> float | None:
        return float(self._queue.visibility_s)

    async def receive(self, limit: int, wait_s: float) -> Sequence[Record]:
        poll = _Poll()
        try:
            records = await self._called(self._polling, self._receive, poll, min(limit, PAGE), wait_s)
        except asyncio.CancelledError:
            with self._lock:
                poll.abandoned = True
            if poll.brought and not self._closed:
                await self._give_back_surely(poll.brought)
            raise
        self._visibility.received((record.item_id for record in records), self._clock.monotonic())
        return records

    async def _called(
        self, threads: BlockingClient, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            return await threads.call(work, *args, **kwargs)
        except RuntimeError as error:  # this host can have no further thread now
            raise SourceUnavailable(f"{self._queue.name}: {error}") from error

    async def _give_back_surely(self, messages: Sequence[dict[str, Any]]) -> None:
        try:
            await self._called(self._settling, self._give_back, messages)
        except Exception:  # whoever cancelled the poll is told of the cancellation, and of nothing else
            logger.exception("messages not given back", extra=self._about(records=len(messages)))

    def _receive(self, poll: _Poll, limit: int, wait_s: float) -> Sequence[Record]:
        with self._lock:
            if poll.abandoned or self._closed:
                return ()
            self._in_flight += 1
        try:
            messages = self._calls.receive(limit, wait_s)
            if not messages:
                return ()
            with self._lock:
                wanted = not (poll.abandoned or self._closed)
                poll.brought = messages if wanted else ()
            if not wanted:
                self._give_back(messages)
                return ()
            received_at = self._clock.now()
            # By id: of two deliveries in one answer, the later one's receipt is the valid one.
            return tuple({m["MessageId"]: record(m, self._queue, received_at) for m in messages}.values())
        finally:
            with self._lock:
                self._in_flight -= 1
            self._close_if_unused()

    def _give_back(self, messages: Sequence[dict[str, Any]]) -> None:
        """Make messages visible that came after the mapping had stopped."""
        try:
            self._calls.change([(message["ReceiptHandle"], 0) for message in messages])
        except MillstreamError as error:
            extra = self._about(records=len(messages), why=str(error))
            logger.warning("messages not given back, they come after their visibility timeout", extra=extra)

    async def extend(self, records: Sequence[Record]) -> None:
        by_id = {record.item_id: record.receipt for record in records}
        due = self._visibility.due(by_id, self._clock.monotonic())
        waiting = ((one, by_id[one]) for one in due)
        threads = min(max(len(due) // (PAGE * PAGES_A_BEAT_THREAD), 1), BEAT_THREADS)
        await _all_of([self._extend_on(waiting) for _ in range(threads)])

    async def _extend_on(self, waiting: Iterator[tuple[str, str]]) -> None:
        """Extend page after page, of what has not been settled by the time that its turn comes."""
        failed: MillstreamError | None = None
        while True:
            now = self._clock.monotonic()
            page: list[tuple[str, str, int]] = []
            while len(page) < PAGE and (held := next(waiting, None)) is not None:
                if for_s := self._visibility.extension_s(held[0], now):
                    page.append((*held, for_s))
            if not page:
                break
            try:
                hidden = [(receipt, for_s) for _, receipt, for_s in page]
                await self._called(self._beating, self._calls.change, hidden)
            except MillstreamError as error:
                failed = error
                continue
            for one, _, for_s in page:
                self._visibility.extended(one, now + for_s)
        if failed is not None:
            raise failed

    async def settle(self, resolution: Resolution) -> None:
        """Delete what is Done or Discarded, tried again after faults.

        What is returned comes again after a visibility timeout, however long it had been hidden ahead.

        Raises:
            SourceUnavailable: some of it is not deleted, and comes again.
        """
        pairs = list(zip(resolution.batch.records, resolution.verdicts, strict=True))
        done = [item.receipt for item, verdict in pairs if not isinstance(verdict, Returned)]
        ids = [item.item_id for item, _ in pairs]
        too_long = self._visibility.settled(ids, self._clock.monotonic())
        visibility_s = self._queue.visibility_s
        again = [
            (item.receipt, visibility_s)
            for item, verdict in pairs
            if isinstance(verdict, Returned) and item.item_id in too_long
        ]
        await _all_of(
            [
                *[self._called(self._settling, self._calls.delete, page) for page in _pages(done)],
                *[self._called(self._settling, self._calls.change, page) for page in _pages(again)],
            ]
        )

    def _about(self, **fields: object) -> dict[str, object]:
        return {"queue": self._queue.name, **fields}

    async def backlog(self) -> int | None:
        return await self._called(self._settling, self._calls.waiting)

    async def aclose(self) -> None:
        with self._lock:
            self._closed = True
        self._polling.close()
        self._settling.close()
        self._beating.close()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._closed and not self._in_flight:
                self._calls.close()


def _pages(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[first : first + PAGE] for first in range(0, len(items), PAGE)]


async def _all_of(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all of it side by side; what fails does not stop the others, and its first fault is raised."""
    if len(works) == 1:
        await works[0]
        return
    faults: list[MillstreamError] = []

    async def one(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except MillstreamError as fault:
            faults.append(fault)

    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(one(work))
    if faults:
        raise faults[0]
