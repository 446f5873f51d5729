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
from millstream.triggers.rabbitmq_stream_chunks import Piece
from millstream.triggers.rabbitmq_stream_messages import place_of
from millstream.triggers.rabbitmq_stream_subscription import Fault, Newest, Place

logger = logging.getLogger(__name__)


class Pieces(Protocol):
    """A subscription: what it brings, in order; see `StreamSubscription`."""

    changed: Callable[[], None]

    @property
    def over(self) -> bool: ...

    @property
    def fault(self) -> Fault | None: ...

    @property
    def newest(self) -> Newest | None: ...

    def start(self) -> None: ...

    def take(self, limit: int) -> list[Piece]: ...

    def wait(self) -> bool: ...

    def close(self) -> None: ...


class Subscribe(Protocol):
    """Makes a subscription that begins at a place; `changed` is called after anything has happened."""

    def __call__(self, place: Place, changed: Callable[[], None], /) -> Pieces: ...


def place_for(start: Start) -> Place:
    """Where the broker is asked to begin; it begins with a whole chunk, so what comes may be older."""
    spec = schema.OffsetSpec.from_params
    match start:
        case Oldest():
            return Place(spec(OffsetType.FIRST, None))
        case At(timestamp=timestamp):
            return Place(spec(OffsetType.TIMESTAMP, math.floor(timestamp * 1000)))
        case After(position=position):
            return Place(spec(OffsetType.OFFSET, place_of(position)[0]), there=True)
        case _:
            assert_never(start)


class RabbitMqStreamReader:
    """Implements StreamReader. A cancelled read takes nothing.

    A subscription after a position begins with the chunk that holds that record, so that its timestamp
    tells whether the stream is still the same one.

    Offsets that are missing are asked for again. If the broker leaves them out once more it has used them
    itself: it writes what consumers store, and what it knows of producers, among the records of the stream.
    From then on gaps that are no larger are passed, and larger ones are asked for again.
    Source: RabbitMQ, osiris_log.erl, CHNK_TRK_DELTA; tests/triggers/test_rabbitmq_stream_losses.py.
    """

    def __init__(self, stream: str, start: Start, subscribe: Subscribe, held: Pieces | None) -> None:
        self._stream = stream
        self._place = start  # where the next subscription begins
        self._next: int | None = None  # offset of what the subscription brings next. None: its first piece
        self._missing: range | None = None  # offsets that are asked for again
        self._own_gap = 0  # the most offsets in a row that the broker is known to have used itself
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
                    await self._go_on(limit)
        return Page([self._backlog.popleft() for _ in range(min(limit, len(self._backlog)))])

    async def aclose(self) -> None:
        self._closed = True
        if self._subscription is not None:
            self._subscription.close()
        self._changed.set()

    async def _go_on(self, limit: int) -> None:
        """Take what the subscription has brought, or wait for it; make one if there is none."""
        self._changed.clear()
        subscription = self._subscription
        if subscription is None:
            subscription = self._subscription = self._subscribe(place_for(self._place), self._changed.set)
            self._next, self._exact = None, False
            subscription.start()
        pieces = subscription.take(limit)
        for piece in pieces:
            if not self._accept(piece):
                return
        if pieces:
            return
        if subscription.over:
            self._subscription = None
            if subscription.fault is not None:
                raise subscription.fault
        elif self._next is None and self._made_anew(subscription.newest):
            self._begin_anew()
        elif subscription.wait():
            await self._changed.wait()

    def _accept(self, piece: Piece) -> bool:
        """Take a piece's records in; False if the subscription is given up, with all that it brought."""
        if self._next is None and self._is_of_another_stream(piece):
            self._begin_anew()
            return False
        if self._next is not None and self._is_behind_a_loss(range(self._next, piece.first)):
            self._leave()
            return False
        self._say_if_lost(piece)
        if self._next is None:
            self._warn_if_trimmed(piece)
        records = piece.records if self._exact else _from(self._place, piece)
        self._next = piece.last + 1
        if records:
            self._backlog.extend(records)
            self._place, self._exact = After(records[-1].position), False
        return True

    def _is_behind_a_loss(self, gap: range) -> bool:
        """True if what is missing before a piece is to be asked for again."""
        if len(gap) <= self._own_gap:
            return False
        if gap == self._missing:
            self._own_gap, self._missing = len(gap), None
            return False
        self._missing = gap
        return True

    def _say_if_lost(self, piece: Piece) -> None:
        missing = self._missing
        if missing is not None and piece.first <= missing[0] <= piece.last:
            about = {"stream": self._stream, "offset": missing[0], "records": len(missing)}
            logger.warning("records were lost on the way, and are read again", extra=about)
            self._missing = None

    def _is_of_another_stream(self, piece: Piece) -> bool:
        """True if the stream is another one of the same name, where our position means nothing."""
        if not isinstance(self._place, After):
            return False
        offset, timestamp_ms = place_of(self._place.position)
        if piece.first <= offset <= piece.chunk_last:
            return piece.timestamp_ms != timestamp_ms
        return self._made_anew(Newest(piece.chunk_last, piece.timestamp_ms))

    def _made_anew(self, chunk: Newest | None) -> bool:
        """True if a chunk that ends before our position was written after it.

        One that was written before comes from a node that does not have our record yet.
        """
        if chunk is None or not isinstance(self._place, After):
            return False
        offset, timestamp_ms = place_of(self._place.position)
        return chunk.last < offset and chunk.timestamp_ms > timestamp_ms

    def _begin_anew(self) -> None:
        logger.warning(
            "stream was made anew under its name: read from its oldest record", extra={"stream": self._stream}
        )
        self._place = Oldest()
        self._leave()

    def _leave(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
        self._subscription = None

    def _warn_if_trimmed(self, piece: Piece) -> None:
        if isinstance(self._place, After):
            missing = piece.first - place_of(self._place.position)[0] - 1
            if missing > 0:
                about = {"stream": self._stream, "offset": piece.first - missing, "records": missing}
                logger.warning("records were trimmed before they were read", extra=about)


def _from(start: Start, piece: Piece) -> list[Record]:
    """The records of a piece that are not before the start."""
    match start:
        case Oldest():
            return piece.records
        case At(timestamp=timestamp):
            return piece.records if piece.timestamp_ms >= round(timestamp * 1000) else []
        case After(position=position):
            return piece.records[max(0, place_of(position)[0] + 1 - piece.first) :]
        case _:
            assert_never(start)
