"""Reads a shard by GetRecords, at the pace that the service allows."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from millstream.aws.record_pages import FOUND, PageUnreadable
from millstream.contract.clock import Clock
from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Record
from millstream.contract.streams import Page, Start
from millstream.triggers.kinesis_client import (
    IteratorExpired,
    KinesisCalls,
    NotFound,
    PlaceRefused,
    SameStream,
    identity_of,
)
from millstream.triggers.kinesis_held import Buffer, Held
from millstream.triggers.kinesis_places import OLDEST, Place, place_of
from millstream.triggers.kinesis_records import RecordMaker
from millstream.triggers.kinesis_wire import Found

logger = logging.getLogger(__name__)

PAGE = 10_000
"""Most records of one call. Source: AWS, GetRecords, Limit."""

BUSY_S = 0.2
"""Between reads of a shard that has records. Source: AWS, GetRecords: five a second for each shard."""

IDLE_S = 1.0
"""Between reads of a shard that has none. Source: AWS, "Using Lambda with Kinesis": one poll a second."""

AWAKE_S = 2.0
"""How long a shard counts as one that has records, after the last of them."""

TYPICAL_PACKED_BYTES = 1024 * 1024
"""Size that records to be taken apart are held to have before the first one was seen."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What one call brought."""

    records: list[Record]  # the first ones that are wanted
    held: Held  # those behind them
    iterator: str | None  # None: the shard has ended
    place: Place  # behind what was brought
    lag_s: float | None


class PollingReader:
    """Implements StreamReader. What a cancelled read brings is dropped, and read again by the next."""

    def __init__(
        self,
        calls: KinesisCalls,
        maker: RecordMaker,
        start: Start,
        clock: Clock,
        buffer: Buffer,
        same: SameStream | None = None,
    ) -> None:
        self._calls = calls
        self._maker = maker
        self._shard = maker.shard
        self._same = same or SameStream(maker.shard)
        self._clock = clock
        self._place = place_of(start)
        self._iterator: str | None = None
        self._buffer = buffer
        self._held: Held | None = None  # what was read and not made into records yet
        self._ended = False  # nothing is behind what was read
        self._lag_s: float | None = None
        self._packed_bytes = TYPICAL_PACKED_BYTES  # of a record, on average of the last page
        self._due = -math.inf  # when the next call may be made
        self._awake_until = -math.inf
        self._most = PAGE  # records of one call, fewer while a page cannot be read as a whole
        self._closed = False
        buffer.join(self)

    async def read(self, limit: int, wait_s: float) -> Page:
        self._same.check()
        until = self._clock.monotonic() + wait_s
        records: list[Record] = []
        while not records and not self._closed:
            if self._held is not None:
                records = await self._next_part(self._held, limit)
                continue
            now = self._clock.monotonic()
            if self._ended:
                break
            if self._due > max(now, until):
                await self._clock.sleep(until - now)
                break
            await self._clock.sleep(self._due - now)
            records = await self._fetch(limit)
        return Page(records, self._ended and self._held is None, self._lag_s)

    async def aclose(self) -> None:
        self._closed = True  # calls are short, and end in their thread
        self._buffer.leave(self)

    async def _next_part(self, held: Held, limit: int) -> list[Record]:
        most_bytes = self._part_bytes
        records, rest = await self._calls.call(lambda _: held.part(limit, most_bytes))
        self._held = None if rest.empty else rest
        return records

    async def _fetch(self, limit: int) -> list[Record]:
        asked_at = self._clock.monotonic()
        self._due = asked_at + BUSY_S  # if it fails or is cancelled; the runner backs off itself
        most = min(limit, self._most, self._fitting)
        get = partial(self._get, self._place, self._iterator, most, limit, self._part_bytes)
        try:
            fetched = await self._calls.call(get)
        except PageUnreadable as unreadable:
            self._ask_for_less(most, unreadable)
            return []
        self._most = min(self._most * 2, PAGE)
        # Nothing of ours has changed until here, where no cancellation can come between.
        now = self._clock.monotonic()
        found = fetched.held.found
        if found or fetched.lag_s:
            self._awake_until = now + AWAKE_S
        if found and self._maker.unpacks:
            self._packed_bytes = max(sum([memoryview(one.data).nbytes for one in found]) // len(found), 1)
        self._due = asked_at + (BUSY_S if now < self._awake_until else IDLE_S)
        self._place = fetched.place
        self._iterator = fetched.iterator
        self._held = None if fetched.held.empty else fetched.held
        self._ended = fetched.iterator is None
        self._lag_s = fetched.lag_s
        return fetched.records

    @property
    def _fitting(self) -> int:
        """Records of one call that may be held; what is not taken apart is handed out at once."""
        return max(self._buffer.packed_bytes // self._packed_bytes, 1) if self._maker.unpacks else PAGE

    @property
    def _part_bytes(self) -> float:
        return self._buffer.part_bytes if self._maker.unpacks else math.inf

    def _ask_for_less(self, limit: int, unreadable: PageUnreadable) -> None:
        """Have the next call bring the records before the one that makes a page unreadable.

        That record itself is never passed, for nobody knows where it ends.
        """
        self._most = max(limit // 2, 1)
        if limit > 1:
            self._lag_s = None
            return
        if self._maker.seldom.due("page"):
            about = self._about(after=self._place.sequence, why=str(unreadable))
            logger.warning("record that makes its page unreadable, asked for again", extra=about)
        raise unreadable

    def _get(
        self, place: Place, iterator: str | None, most: int, limit: int, part_bytes: float, client: Any
    ) -> _Fetched:
        """In a thread: `most` records at the iterator, or else at the place, and the first part of them."""
        try:
            if iterator is not None:
                try:
                    return self._page(client, place, iterator, most, limit, part_bytes)
                except (IteratorExpired, PlaceRefused, NotFound) as refused:
                    self._same.compare(identity_of(client, self._calls.stream))  # as it is now
                    extra = self._about(why=type(refused).__name__)
                    logger.debug("shard iterator renewed", extra=extra)
            place, iterator = self._new_iterator(client, place)
            return self._page(client, place, iterator, most, limit, part_bytes)
        except NotFound as error:
            raise self._calls.missing(client, self._shard) from error

    def _new_iterator(self, client: Any, place: Place) -> tuple[Place, str]:
        try:
            return place, self._ask_iterator(client, place)
        except NotFound:
            if place.sequence is None:
                raise
        except PlaceRefused:
            if place.sequence is None:
                raise
            return self._from_the_oldest(client)
        try:
            return place, self._ask_iterator(
                client, place
            )  # once more: it may pass, and all would come twice
        except (NotFound, PlaceRefused):
            return self._from_the_oldest(client)

    def _from_the_oldest(self, client: Any) -> tuple[Place, str]:
        iterator = self._ask_iterator(client, OLDEST)  # not found either, if the shard itself is gone
        logger.warning("position not in the stream any more: from the oldest record", extra=self._about())
        return OLDEST, iterator

    def _ask_iterator(self, client: Any, place: Place) -> str:
        with self._calls.errors():
            answer = client.get_shard_iterator(
                **self._calls.stream.called, ShardId=self._shard, **place.iterator_arguments
            )
            iterator = answer.get("ShardIterator")
        if not isinstance(iterator, str):
            raise SourceUnavailable(f"{self._calls.stream.name}: no iterator of {self._shard}")
        return iterator

    def _page(
        self, client: Any, place: Place, iterator: str, most: int, limit: int, part_bytes: float
    ) -> _Fetched:
        with self._calls.errors():
            answer = client.get_records(ShardIterator=iterator, Limit=most, **self._calls.stream.by_arn)
            found: Found = answer[FOUND]
        held = place.held(self._maker, found.records, self._clock.now())
        place = place.passed(found.records, not held.empty)
        records, rest = held.part(limit, part_bytes)
        return _Fetched(records, rest, found.next_shard_iterator, place, found.lag_s)

    def _about(self, **fields: object) -> dict[str, object]:
        return {"stream": self._calls.stream.name, "shard": self._shard, **fields}
