"""One subscription to a RabbitMQ stream, in a thread of its own; what it brings waits here, in chunks."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from rstream import schema
from rstream.exceptions import StreamNotAvailable

from millstream.contract.clock import Clock
from millstream.contract.errors import InvalidConfiguration, PartitionGone, SourceUnavailable
from millstream.contract.records import Record
from millstream.triggers.rabbitmq_stream_client import (
    FAULTS,
    Named,
    StreamClient,
    connected,
    fault,
    other_node,
)
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker

CREDITS = 10
"""Chunks that the broker may send before those in hand are taken. One may hold a message, or thousands."""

ONLY = 0
"""The subscription's number on its connection, which has no other."""

Fault: TypeAlias = SourceUnavailable | PartitionGone | InvalidConfiguration


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the broker writes and sends at once: messages that it got within a moment."""

    first: int  # offset
    last: int
    timestamp_ms: int
    records: list[Record]


class StreamSubscription:
    """Reads on from a place until it is closed or lost. Its methods are called in the daemon's event loop.

    new ── start ──► subscribing ──► ready ──► over, with the fault if there is one
    """

    def __init__(
        self,
        named: Named,
        place: schema.OffsetSpec,
        maker: StreamRecordMaker,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.changed = changed  # called after anything has happened
        self.ready = False  # the broker knows from where on we read
        self.over = False
        self.fault: Fault | None = None
        self.awaited = False  # somebody waits for a chunk
        self._named = named
        self._place = place
        self._maker = maker
        self._clock = clock
        self._daemon = asyncio.get_running_loop()
        self._waiting: deque[Chunk] = deque()
        self._guard = threading.Lock()  # over the next two: a loop that has ended takes nothing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._closed = False
        # Of the thread:
        self._client: StreamClient | None = None
        self._asked = asyncio.Event()
        self._credits = 0

    def start(self) -> None:
        """Subscribe, in the thread."""
        name = f"rabbitmq-stream-{self._named.stream}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def take(self, limit: int) -> list[Chunk]:
        """What waits, in order, until it holds `limit` records; the broker may then send as much again."""
        self.awaited = False
        taken: list[Chunk] = []
        records = 0
        while self._waiting and records < limit:
            taken.append(self._waiting.popleft())
            records += len(taken[-1].records)
        if taken:
            self._call(partial(self._credit, len(taken)))
        return taken

    def wait(self) -> bool:
        """Ask to be told of the next chunk. False: there is one, or there will be none."""
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
        except (SourceUnavailable, PartitionGone, InvalidConfiguration) as error:
            self.fault = error
        finally:
            if self.fault is None and not self._closed:  # a fault of ours, or of the client's
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
            client.add_handler(schema.Deliver, self._on_chunk, name=str(ONLY))
            client.add_handler(schema.MetadataUpdate, self._on_metadata)
            await client.run_queue_listener_task(ONLY, self._on_chunk)
            await client.subscribe(named.stream, ONLY, self._place, CREDITS)
            self.ready = True
            self._tell()
            await self._serve(client)

    async def _serve(self, client: StreamClient) -> None:
        """Ask for further chunks as those in hand are taken, until the broker falls silent."""
        while not client.silent:
            with suppress(TimeoutError):
                async with asyncio.timeout(client.heartbeat_s / 2 or None):
                    await self._asked.wait()
            self._asked.clear()
            chunks, self._credits = self._credits, 0
            if chunks:
                await client.credit(ONLY, chunks)
        raise TimeoutError("the broker is silent")

    def _credit(self, chunks: int) -> None:
        self._credits += chunks
        self._asked.set()

    def _on_chunk(self, frame: schema.Deliver) -> None:
        whole = False  # rstream only logs what a handler raises, and would go on behind the gap
        try:
            self._waiting.append(self._chunk(frame))
            whole = True
        finally:
            if not whole and self._client is not None:
                self._client.fail(ValueError("a chunk that cannot be read"))
        if self.awaited:
            self.awaited = False
            self._tell()

    def _chunk(self, frame: schema.Deliver) -> Chunk:
        first, at_ms, now = frame.chunk_first_offset, frame.timestamp, self._clock.now()
        make = self._maker.record
        records = [make(first + n, at_ms, bytes(data), now) for n, data in enumerate(frame.get_messages())]
        return Chunk(first, first + len(records) - 1, at_ms, records)

    def _on_metadata(self, _: schema.MetadataUpdate) -> None:
        """The stream was deleted, or its node goes away: subscribing again tells which."""
        if self._client is not None:
            self._client.fail(ConnectionResetError("the stream is not available on this node any more"))

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._daemon.call_soon_threadsafe(self.changed)
