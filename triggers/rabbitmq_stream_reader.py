"""Reads a RabbitMQ stream in order, over one subscription after another."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, assert_never

from rstream import OffsetType, schema

from millstream.contract.records import Record
from millstream.contract.streams import After, At, Oldest, Page, Start
from millstream.triggers.rabbitmq_stream_messages import place_of
from millstream.triggers.rabbitmq_stream_subscription import Chunk, StreamSubscription

logger = logging.getLogger(__name__)


class Subscribe(Protocol):
    """Makes a subscription that begins at a place; `changed` is called after anything has happened."""

    def __call__(self, place: schema.OffsetSpec, changed: Callable[[], None], /) -> StreamSubscription: ...


def offset_spec(start: Start) -> schema.OffsetSpec:
    """Where the broker is asked to begin; it begins with a whole chunk, so what comes may be older."""
    match start:
        case Oldest():
            return schema.OffsetSpec.from_params(OffsetType.FIRST, None)
        case At(timestamp=timestamp):
            return schema.OffsetSpec.from_params(OffsetType.TIMESTAMP, math.floor(timestamp * 1000))
        case After(position=position):
            return schema.OffsetSpec.from_params(OffsetType.OFFSET, place_of(position)[0])
        case _:
            assert_never(start)


class RabbitMqStreamReader:
    """Implements StreamReader. A cancelled read takes nothing.

    A subscription after a position begins with the chunk that holds that record, so that its timestamp
    tells whether the stream is still the same one.
    """

    def __init__(
        self, stream: str, start: Start, subscribe: Subscribe, held: StreamSubscription | None
    ) -> None:
        self._stream = stream
        self._place = start  # where the next subscription begins
        self._new = True  # nothing came over the subscription yet
        self._exact = held is not None  # it begins where we begin, and not with the chunk that holds that
        self._subscribe = subscribe
        self._subscription = held
        self._backlog: deque[Record] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        if held is not None:
            held.changed = self._changed.set
            self._changed.set()

    async def read(self, limit: int, wait_s: float) -> Page:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self._backlog and not self._closed:
                    await self._next(limit)
        return Page([self._backlog.popleft() for _ in range(min(limit, len(self._backlog)))])

    async def aclose(self) -> None:
        self._closed = True
        if self._subscription is not None:
            self._subscription.close()
        self._changed.set()

    async def _next(self, limit: int) -> None:
        self._changed.clear()
        subscription = self._subscription
        if subscription is None:
            subscription = self._subscription = self._subscribe(offset_spec(self._place), self._changed.set)
            self._new, self._exact = True, False
            subscription.start()
        chunks = subscription.take(limit)
        for chunk in chunks:
            if not self._accept(chunk):
                return
        if not chunks and subscription.over:
            self._subscription = None
            if subscription.fault is not None:
                raise subscription.fault
        elif not chunks and subscription.wait():
            await self._changed.wait()

    def _accept(self, chunk: Chunk) -> bool:
        """Take a chunk's records in; False if the subscription is given up, with all that it brought."""
        if self._new and self._made_anew(chunk):
            logger.warning(
                "position not in the stream any more: from the oldest record", extra={"stream": self._stream}
            )
            self._place = Oldest()
            if self._subscription is not None:
                self._subscription.close()
            self._subscription = None
            return False
        records = chunk.records if self._new and self._exact else _from(self._place, chunk)
        self._new = False
        if records:
            self._backlog.extend(records)
            self._place = After(records[-1].position)
        return True

    def _made_anew(self, chunk: Chunk) -> bool:
        """True if the stream is another one of the same name, where our position means nothing."""
        if not isinstance(self._place, After):
            return False
        offset, timestamp_ms = place_of(self._place.position)
        return chunk.last < offset or (chunk.first <= offset and chunk.timestamp_ms != timestamp_ms)


def _from(start: Start, chunk: Chunk) -> list[Record]:
    """The records of a chunk that are not before the start."""
    match start:
        case Oldest():
            return chunk.records
        case At(timestamp=timestamp):
            return chunk.records if chunk.timestamp_ms >= round(timestamp * 1000) else []
        case After(position=position):
            return chunk.records[max(0, place_of(position)[0] + 1 - chunk.first) :]
        case _:
            assert_never(start)
