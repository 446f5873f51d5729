"""An opened RabbitMQ stream: one partition, and readers of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rstream import OffsetType, schema

from millstream.contract.blocking import BlockingClient
from millstream.contract.clock import Clock
from millstream.contract.errors import SourceUnavailable
from millstream.contract.streams import At, Partition, Start
from millstream.triggers.rabbitmq_stream_chunks import ChunkReader
from millstream.triggers.rabbitmq_stream_client import Named, find
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker
from millstream.triggers.rabbitmq_stream_reader import RabbitMqStreamReader
from millstream.triggers.rabbitmq_stream_subscription import Place, StreamSubscription

NEXT = Place(schema.OffsetSpec.from_params(OffsetType.NEXT, None))


class RabbitMqStreamSource:
    """Implements StreamSource. The partition is the stream itself, by its name."""

    def __init__(self, named: Named, event_source_arn: str, clock: Clock, buffer_bytes: int) -> None:
        self._named = named
        self._arn = event_source_arn
        self._clock = clock
        self._buffer_bytes = buffer_bytes
        self._finding = BlockingClient(f"rabbitmq-stream-find-{named.stream}", 1)
        self._marked_at = math.nan
        self._held: StreamSubscription | None = None  # from the mark on

    @property
    def identity(self) -> str | None:
        return None  # positions carry the time of their record's chunk

    @property
    def event_source_arn(self) -> str:
        return self._arn

    async def partitions(self) -> Sequence[Partition]:
        await self._finding.call(lambda: asyncio.run(find(self._named)))
        return [Partition(self._named.stream)]

    async def mark(self) -> float:
        """The time by our clock. A subscription that begins now is held for the reader that follows soon.

        Others search by time, which a clock of ours that is ahead of the broker's makes imprecise.
        """
        self._release()
        changed = asyncio.Event()
        held = self._held = self._subscription(self._named.stream, NEXT, changed.set)
        held.start()
        while not (held.ready or held.over):
            await changed.wait()
            changed.clear()
        if held.over:
            self._release()
            raise held.fault or SourceUnavailable(f"{self._named.stream}: closed")
        self._marked_at = math.floor(self._clock.now() * 1000) / 1000  # chunks have no more
        return self._marked_at

    async def reader(self, partition: Partition, start: Start) -> RabbitMqStreamReader:
        held = None
        if isinstance(start, At) and start.timestamp == self._marked_at:
            held, self._held = self._held, None
        return RabbitMqStreamReader(partition.id, start, partial(self._subscription, partition.id), held)

    async def aclose(self) -> None:
        self._release()
        self._finding.close()

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _subscription(self, stream: str, place: Place, changed: Callable[[], None]) -> StreamSubscription:
        reader = ChunkReader(StreamRecordMaker(stream))
        named = replace(self._named, stream=stream)
        return StreamSubscription(named, place, reader, self._clock, changed, self._buffer_bytes)
