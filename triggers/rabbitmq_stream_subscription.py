"""One subscription to a RabbitMQ stream, in a thread of its own; what it brings waits here, in chunks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from rstream import OffsetType, schema
from rstream.exceptions import StreamNotAvailable

from millstream.contract.clock import Clock
from millstream.contract.errors import PartitionGone, Refused, SourceUnavailable
from millstream.triggers.rabbitmq_stream_chunks import BrokenChunk, ChunkReader, Piece
from millstream.triggers.rabbitmq_stream_client import (
    FAULTS,
    Failed,
    Named,
    StreamClient,
    connected,
    fault,
    other_node,
)

logger = logging.getLogger(__name__)

CREDITS = 10
FIRST_CREDITS = 2
"""Chunks that the broker may send before those in hand are taken: at most, and before the first one has
told how large they are. One may hold a message, or thousands."""

READY_BYTES = 8 * 1024 * 1024
"""Events that are made before somebody takes them, if that is less than half of what may be held."""

MAIN, NEWEST = 0, 1
"""The subscriptions on a connection, by their numbers: the one that reads, and one that asks for the newest
chunk."""

QUIET_S = 3.0
"""A subscription from a position on brings that record's chunk at once. Without any for so long, it is
asked whether the stream still goes that far."""

LAST = schema.OffsetSpec.from_params(OffsetType.LAST, None)

Fault: TypeAlias = SourceUnavailable | PartitionGone | Refused


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subscription begins."""

    spec: schema.OffsetSpec
    there: bool = False  # at a record that was there, so that its chunk is expected at once


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest chunk of a stream, at some moment."""

    last: int  # offset of its last record
    timestamp_ms: int


class StreamSubscription:
    """Reads on from a place until it is closed or lost. Its methods are called in the daemon's event loop.

    new ── start ──► subscribing ──► ready ──► over, with the fault if there is one

    What it brings has no gaps: after a chunk that could not be taken it takes no other one.
    """

    def __init__(
        self,
        named: Named,
        place: Place,
        reader: ChunkReader,
        clock: Clock,
        changed: Callable[[], None],
        buffer_bytes: int,
    ) -> None:
        self.changed = changed  # called after anything has happened
        self.ready = False  # the broker knows from where on we read
        self.over = False
        self.fault: Fault | None = None
        self.awaited = False  # somebody waits for a piece
        self.newest: Newest | None = None  # the stream's newest chunk, if it was asked for
        self._named = named
        self._place = place
        self._reader = reader
        self._clock = clock
        self._buffer_bytes = buffer_bytes
        self._daemon = asyncio.get_running_loop()
        self._waiting: deque[Piece] = deque()
        self._taken_bytes = 0  # of pieces, ever; written in the daemon's loop alone
        self._guard = threading.Lock()  # over the next two: a loop that has ended takes nothing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._closed = False
        # Of the thread:
        self._client: StreamClient | None = None
        self._made_bytes = 0  # of pieces, ever
        self._room = asyncio.Event()
        self._outstanding = FIRST_CREDITS  # chunks that the broker may send, or that are not taken yet
        self._largest_bytes = 0  # of a chunk. 0: none has come
        self._quiet_at: float | None = None  # (monotonic) by then the expected chunk has come

    def start(self) -> None:
        """Subscribe, in the thread. Where none is to be had, the subscription is over."""
        name = f"rabbitmq-stream-{self._named.stream}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError as error:
            self.fault = SourceUnavailable(f"{self._named.stream}: {error}")
            self.over = True
            self._tell()

    def take(self, limit: int) -> list[Piece]:
        """Return waiting pieces, in order, of about `limit` records; the broker may then send more."""
        self.awaited = False
        taken: list[Piece] = []
        records = 0
        while self._waiting and records < limit:
            taken.append(self._waiting.popleft())
            records += len(taken[-1].records)
        if taken:
            self._taken_bytes += sum(piece.size_bytes for piece in taken)
            self._call(partial(self._go_on, sum(piece.ends_chunk for piece in taken)))
        return taken

    def wait(self) -> bool:
        """Ask to be told of the next piece. False: there is one, or there will be none."""
        self.awaited = True
        return not self._waiting and not self.over

    def close(self) -> None:
        """End the thread; does not wait."""
        self._closed = True
        if self._main is not None:
            self._call(self._main.cancel)

    def _call(self, work: Callable[[], Any]) -> None:
        with self._guard:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(work)

    # ---- called in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._subscribed())
        except asyncio.CancelledError:
            pass  # closed
        except (SourceUnavailable, PartitionGone, Refused) as error:
            self.fault = error
        except Exception:
            logger.exception("subscription failed", extra={"stream": self._named.stream})
        finally:
            if self.fault is None and not self._closed:  # a fault of ours
                self.fault = SourceUnavailable(f"{self._named.stream}: the subscription failed")
            self.over = True  # not before the fault can be seen
            self._tell()

    async def _subscribed(self) -> None:
        with self._guard:
            self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        named = self._named
        try:
            if not self._closed:
                await self._read(named)
        except StreamNotAvailable:
            await self._elsewhere(named)
        except FAULTS as error:
            raise fault(error, named) from error
        finally:
            with self._guard:
                self._loop = None

    async def _elsewhere(self, named: Named) -> None:
        """Read from a node that has the stream, as this one says that it has not."""
        try:
            async with connected(named) as client:
                named = await other_node(client, named)
            await self._read(named)
        except FAULTS as error:
            raise fault(error, named) from error

    async def _read(self, named: Named) -> None:
        async with connected(named) as client:
            self._client = client
            client.add_handler(schema.Deliver, self._on_chunk, name=str(MAIN))
            client.add_handler(schema.MetadataUpdate, self._on_metadata)
            await client.run_queue_listener_task(MAIN, self._on_chunk)
            await client.subscribe(named.stream, MAIN, self._place.spec, FIRST_CREDITS)
            client.check()
            self.ready = True
            self._tell()
            await self._serve(client)

    async def _serve(self, client: StreamClient) -> None:
        """Ask for further chunks as those in hand are taken, until closed, or the broker falls silent.

        A cancellation may be lost on the way here, so that nothing rests on it.
        """
        self._quiet_at = time.monotonic() + QUIET_S if self._place.there else None
        while not self._closed:
            client.check()
            if client.silent:
                raise TimeoutError("the broker is silent")
            await self._ask_for_more(client)
            await self._ask_for_newest(client)
            beat_s = client.heartbeat_s / 2 or None
            rest_s = beat_s if self._quiet_at is None else min(beat_s or QUIET_S, QUIET_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await client.stirred.wait()
            client.stirred.clear()

    async def _ask_for_more(self, client: StreamClient) -> None:
        """Let the broker send as many chunks as may be held, by the largest one so far."""
        if not self._largest_bytes:
            return
        most = max(1, min(CREDITS, self._buffer_bytes // 2 // self._largest_bytes))
        if self._outstanding < most:
            more, self._outstanding = most - self._outstanding, most
            await client.credit(MAIN, more)

    async def _ask_for_newest(self, client: StreamClient) -> None:
        """Ask for the stream's newest chunk, once, if the one that is expected does not come."""
        if self._quiet_at is None or (not self._largest_bytes and time.monotonic() < self._quiet_at):
            return
        self._quiet_at = None
        if not self._largest_bytes:
            await client.subscribe(self._named.stream, NEWEST, LAST, 1)

    def _go_on(self, chunks: int) -> None:
        """Pieces were taken, and so many chunks with them."""
        self._outstanding -= chunks
        self._room.set()
        if self._client is not None:
            self._client.stirred.set()

    async def _on_chunk(self, frame: schema.Deliver) -> None:
        """Take a chunk in; rstream calls this for one after the other, and only logs what it raises."""
        client = self._client
        if client is None or not client.usable():
            return  # what is behind a failure is not to be had here: it would be behind a gap
        try:
            if frame.subscription_id == NEWEST:
                self.newest = Newest(frame.chunk_first_offset + frame.num_records - 1, frame.timestamp)
                self._tell()
                return
            self._largest_bytes = max(self._largest_bytes, len(frame.data), 1)
            for piece in self._reader.pieces(frame, self._clock.now()):
                await self._has_room()
                if not client.usable():
                    return
                self._made_bytes += piece.size_bytes
                self._waiting.append(piece)
                if self.awaited:
                    self.awaited = False
                    self._tell()
        except BrokenChunk as broken:
            client.fail(Failed(str(broken)))
        except Exception as error:
            logger.exception("chunk not taken", extra={"stream": self._named.stream})
            client.fail(Failed(f"a chunk was not taken: {type(error).__name__}"))

    async def _has_room(self) -> None:
        """Wait until there is room for one more piece beside those that wait."""
        ready_bytes = min(READY_BYTES, self._buffer_bytes // 2)
        while True:
            self._room.clear()
            if not self._waiting or self._made_bytes - self._taken_bytes < ready_bytes:
                return
            await self._room.wait()

    def _on_metadata(self, _: schema.MetadataUpdate) -> None:
        """The stream was deleted, or its node goes away: subscribing again tells which."""
        if self._client is not None:
            self._client.fail(ConnectionResetError("the stream is not available on this node any more"))

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._daemon.call_soon_threadsafe(self.changed)
