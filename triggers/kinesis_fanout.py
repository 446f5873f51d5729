"""Reads a shard by SubscribeToShard: the service pushes records over a connection of the shard's own."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from millstream.contract.clock import Clock
from millstream.contract.errors import MillstreamError, SourceUnavailable
from millstream.contract.records import Record
from millstream.contract.streams import Page, Start
from millstream.triggers.kinesis_client import ConsumerBusy, KinesisCalls, NotFound, PlaceRefused, SameStream
from millstream.triggers.kinesis_held import Backlog, Buffer
from millstream.triggers.kinesis_places import OLDEST, Place, after, place_of
from millstream.triggers.kinesis_records import RecordMaker
from millstream.triggers.kinesis_wire import EVENT, Found

logger = logging.getLogger(__name__)

WAITING = 2
"""Parts of events that may wait for the runner; while they do, the connection is not read on."""

PART = 10_000
"""Most records of a part; its bytes are bounded by the buffer."""

RENEWAL_S = 1.0
"""Least time between two subscriptions to a shard. Source: AWS, SubscribeToShard: one call a second."""

BUSY_TRIES = 6
"""Subscriptions that may be refused in a row. The service refuses within five seconds of the one before."""

LISTENED_S = 1.0
"""An event that was waited for as long was sent just now, and not long ago while nobody read on. The
service sends one about every five seconds where there are no records."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one event of a subscription brought, or the next part of it."""

    records: list[Record]
    lag_s: float | None  # None: unknown, or more of the event follows
    ended: bool
    sent_at: float  # monotonic, the latest that is certain


class Subscriptions:
    """Subscribes to a shard again and again, in a thread, and hands the events over; resumes behind them.

    idle ── start ──► subscribing ──► reading ──┬─ closed by the service ──► subscribing
      ▲                                         └─ shard ended, closed ──► over
      └────────────── fault, handed over ◄── any
    """

    def __init__(
        self,
        calls: KinesisCalls,
        maker: RecordMaker,
        start: Start,
        clock: Clock,
        buffer: Buffer,
        arrived: asyncio.Event,
    ) -> None:
        self._calls = calls
        self._maker = maker
        self._shard = maker.shard
        self._clock = clock
        self._buffer = buffer
        self._place = place_of(start)
        self._loop = asyncio.get_running_loop()
        self._arrived = arrived
        self._changed = threading.Condition()
        self._waiting: deque[_Part | MillstreamError] = deque()
        self._running = False
        self._over = False
        self._streaming: Any = None  # the response that the thread reads

    def start(self) -> None:
        """Let the thread run, if it does not; not before what it left is taken.

        Raises:
            SourceUnavailable: this host can have no further thread now.
        """
        with self._changed:
            if self._running or self._over or self._waiting:
                return
            self._running = True
        name = f"kinesis-fanout-{self._shard}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError as error:
            with self._changed:
                self._running = False
            raise SourceUnavailable(f"{self._calls.stream.name}: no thread for {self._shard}") from error

    def take(self) -> _Part | MillstreamError | None:
        """What waits, in order. None: nothing does."""
        with self._changed:
            if not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def close(self) -> None:
        """End the thread, a read of the connection included; does not wait for it."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            if self._streaming is not None:
                _shut(self._streaming)

    def _run(self) -> None:
        fault: MillstreamError | None = None
        try:
            with self._calls.client() as client:
                self._subscribe_on_and_on(client)
        except MillstreamError as raised:
            fault = raised
        except Exception as raised:
            logger.exception("subscription failed, it is made again", extra=self._about())
            fault = SourceUnavailable(f"{self._calls.stream.name}: {type(raised).__name__} in {self._shard}")
        finally:
            with self._changed:
                self._running = False
                if fault is not None:
                    self._waiting.append(fault)
            self._tell()

    def _subscribe_on_and_on(self, client: Any) -> None:
        refused = 0
        while not self._over:
            began_at = self._clock.monotonic()
            try:
                if self._subscribe(client):
                    refused = 0
            except ConsumerBusy:
                refused += 1
                if refused >= BUSY_TRIES:
                    raise
                logger.debug("subscription refused for now", extra=self._about())
            except NotFound as error:
                raise self._calls.missing(client, self._shard) from error
            rest_s = began_at + RENEWAL_S - self._clock.monotonic()
            with self._changed:
                self._changed.wait_for(lambda: self._over, rest_s)

    def _subscribe(self, client: Any) -> bool:
        """Read one subscription to its end; True if it brought an event."""
        stream = self._opened(client)
        heard = False
        try:
            with self._changed:
                if self._over:
                    return False
                self._streaming = _response(stream)
            with self._calls.errors():
                listening_at = -math.inf  # the first event is of now, too
                for event in stream:
                    heard, now = True, self._clock.monotonic()
                    sent_at = now if now - listening_at >= LISTENED_S else -math.inf
                    if not self._hand_over(event[EVENT], sent_at):
                        break
                    listening_at = self._clock.monotonic()
        except SourceUnavailable:
            if not self._over:  # else it is our own shutting of the connection
                raise
        finally:
            with self._changed:
                self._streaming = None
            stream.close()
        return heard

    def _opened(self, client: Any) -> Any:
        try:
            return self._ask(client, self._place)
        except PlaceRefused:
            if self._place.sequence is None:
                raise
        stream = self._ask(client, OLDEST)  # not found either, if the shard itself is gone
        self._place = OLDEST
        logger.warning("position not in the stream any more: from the oldest record", extra=self._about())
        return stream

    def _ask(self, client: Any, place: Place) -> Any:
        with self._calls.errors():
            return client.subscribe_to_shard(
                ConsumerARN=self._calls.stream.consumer_arn,
                ShardId=self._shard,
                StartingPosition=place.starting_position,
            )["EventStream"]

    def _hand_over(self, found: Found, sent_at: float) -> bool:
        """Queue the parts of an event, each once there is room; False if no further event is wanted."""
        held = self._place.held(self._maker, found.records, self._clock.now())
        ended = bool(found.child_shards) or found.continuation_sequence_number is None
        self._place = _behind(self._place, found, not held.empty)
        for records, rest in held.parts(PART, self._buffer.part_bytes):
            last = rest.empty
            part = _Part(records, found.lag_s if last else None, ended and last, sent_at)
            with self._changed:
                self._changed.wait_for(lambda: self._over or len(self._waiting) < WAITING)
                if self._over:
                    return False
                self._waiting.append(part)
                self._over = part.ended
            self._tell()
        return not ended

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived.set)

    def _about(self) -> dict[str, object]:
        return {"stream": self._calls.stream.name, "shard": self._shard}


class FanoutReader:
    """Implements StreamReader. A cancelled read takes nothing."""

    def __init__(
        self,
        calls: KinesisCalls,
        maker: RecordMaker,
        start: Start,
        clock: Clock,
        buffer: Buffer,
        same: SameStream | None = None,
    ) -> None:
        self._buffer = buffer
        buffer.join(self)
        self._same = same or SameStream(maker.shard)
        self._clock = clock
        self._arrived = asyncio.Event()
        self._subscriptions = Subscriptions(calls, maker, start, clock, buffer, self._arrived)
        self._backlog = Backlog()
        self._told_at = -math.inf  # when the service last said how far behind this is
        self._closed = False

    async def read(self, limit: int, wait_s: float) -> Page:
        self._same.check()
        asked_at = self._clock.monotonic()
        self._subscriptions.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._backlog.empty and not self._backlog.ended and not self._closed:
                    await self._next()
        page = self._backlog.take(limit)
        # Silence does not say that there is nothing: the connection may hang.
        return page if page.records or self._told_at >= asked_at else replace(page, lag_s=None)

    async def aclose(self) -> None:
        self._closed = True
        self._buffer.leave(self)
        self._subscriptions.close()
        self._arrived.set()

    async def _next(self) -> None:
        self._arrived.clear()
        found = self._subscriptions.take()
        if isinstance(found, _Part):
            self._backlog.add(found.records, found.lag_s, found.ended)
            self._told_at = found.sent_at
        elif found is not None:
            raise found
        else:
            await self._arrived.wait()


def _behind(place: Place, found: Found, wanted: bool) -> Place:
    """Where the next subscription goes on."""
    if found.records:
        return place.passed(found.records, wanted)
    if found.continuation_sequence_number is None or place.at is not None or place.last_sub >= 0:
        return place
    return after(found.continuation_sequence_number)


def _response(stream: Any) -> Any:
    """The HTTP response below an event stream, which has no public name for it."""
    return stream._raw_stream


def _shut(response: Any) -> None:
    """Shut a connection under the thread that reads it; `close` would wait for that thread."""
    with suppress(OSError), socket.socket(fileno=os.dup(response.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
