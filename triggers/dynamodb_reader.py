"""Reads a shard of a DynamoDB stream, at the pace that the service allows."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from millstream.aws.record_pages import FOUND, PageUnreadable
from millstream.contract.clock import Clock
from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Record
from millstream.contract.streams import Page
from millstream.triggers.dynamodb_client import (
    DynamoDbCalls,
    IteratorRefused,
    NotFound,
    Trimmed,
    dynamodb_errors,
)
from millstream.triggers.dynamodb_records import RecordMaker
from millstream.triggers.dynamodb_wire import Found, created_at, sequence_of

logger = logging.getLogger(__name__)

PAGE = 1000
"""Most records of one call. Source: AWS, DynamoDB Streams, GetRecords, Limit."""

BUSY_S = 0.25
"""Between reads of a shard that has records. Source: AWS, "Using AWS Lambda with Amazon DynamoDB":
four reads a second for each shard."""

IDLE_S = 1.0
"""Between reads of a shard that has none; ours, where AWS asks four times a second."""

AWAKE_S = 2.0
"""How long a shard counts as one that has records, after the last of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading of a shard goes on.

    No iterator can be had for a time: one is searched for from the oldest record on, and records
    created before `since` are passed over.
    """

    after: str | None = None  # sequence number of the last record found. None: from the oldest one on
    since: float | None = None  # Unix seconds. None: every record is wanted
    iterator: str | None = None  # which leads here. None: to be asked for
    searching: bool = False  # passes over what is before `since`

    def wanted(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What of the records from here on is not before it."""
        if not self.searching or self.since is None:
            return found
        since = self.since
        first = next((n for n, one in enumerate(found) if _not_before(one, since)), len(found))
        return found[first:]

    def passed(self, found: list[dict[str, Any]], wanted: int, iterator: str | None) -> Place:
        """The place behind a page, of which the last records were `wanted`."""
        last = sequence_of(found[-1]) if found else self.after
        if wanted:
            return Place(last, iterator=iterator)
        return replace(self, after=last, iterator=iterator)

    def oldest(self) -> Place:
        """Where to go on if this place cannot be had any more."""
        return Place(since=self.since, searching=self.since is not None)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What one call brought."""

    records: list[Record]
    found: int  # records before any was passed over
    place: Place
    ended: bool


class DynamoDbReader:
    """Implements StreamReader. What a cancelled read brings is dropped, and read again by the next."""

    def __init__(
        self, calls: DynamoDbCalls, maker: RecordMaker, place: Place, clock: Clock, *, closed: bool
    ) -> None:
        self._calls = calls
        self._maker = maker
        self._shard = maker.shard
        self._place = place
        self._clock = clock
        self._hurries = closed  # pages of a closed shard may be empty before its end, and none is waited for
        self._due = -math.inf  # when the next call may be made
        self._awake_until = -math.inf
        self._most = PAGE  # records of one call, fewer while a page cannot be read as a whole
        self._ended = False
        self._lag_s: float | None = None
        self._stopped = False

    async def read(self, limit: int, wait_s: float) -> Page:
        until = self._clock.monotonic() + wait_s
        while not self._ended and not self._stopped:
            now = self._clock.monotonic()
            if self._due > max(now, until):
                await self._clock.sleep(until - now)
                break
            await self._clock.sleep(self._due - now)
            records = await self._fetch(min(limit, self._most))
            if records:
                return Page(records, self._ended, self._lag_s)
        return Page((), self._ended, self._lag_s)

    async def aclose(self) -> None:
        self._stopped = True  # calls are short, and end in their thread

    async def _fetch(self, limit: int) -> list[Record]:
        asked_at = self._clock.monotonic()
        self._due = asked_at + IDLE_S
        try:
            fetched = await self._calls.call(partial(self._get, self._place, limit))
        except PageUnreadable as unreadable:
            self._ask_for_less(limit, unreadable)
            return []
        self._most = min(self._most * 2, PAGE)
        # Nothing of ours has changed until here, where no cancellation can come between.
        now = self._clock.monotonic()
        if fetched.found:
            self._awake_until = now + AWAKE_S
        self._due = asked_at + (BUSY_S if self._hurries or now < self._awake_until else IDLE_S)
        if fetched.found >= limit:  # the pace is for looking; what is known to wait is read at once
            self._due = now
        self._place = fetched.place
        self._ended = fetched.ended
        self._lag_s = None if fetched.found or self._hurries else 0.0
        return fetched.records

    def _ask_for_less(self, limit: int, unreadable: PageUnreadable) -> None:
        """Have the next call bring the records before the one that makes a page unreadable.

        That record itself is never passed, for nobody knows where it ends.
        """
        self._most = max(limit // 2, 1)
        self._lag_s = None
        if limit > 1:
            return
        if self._maker.seldom.due("page"):
            about = self._about(after=self._place.after, why=str(unreadable))
            logger.warning("record that makes its page unreadable, asked for again", extra=about)
        raise unreadable

    def _get(self, place: Place, limit: int, client: Any) -> _Fetched:
        """In a thread: the page at a place."""
        try:
            if place.iterator is not None:
                try:
                    return self._page(client, place, place.iterator, limit)
                except IteratorRefused as refused:
                    logger.debug("shard iterator renewed", extra=self._about(why=str(refused)))
                    place = replace(place, iterator=None)
                    if place.after is None:
                        place = place.oldest()
                except Trimmed:
                    place = self._moved(place)
            try:
                iterator = self._new_iterator(client, place)
            except (Trimmed, IteratorRefused):
                if place.after is None:
                    raise
                place = self._moved(place)
                iterator = self._new_iterator(client, place)
            return self._page(client, place, iterator, limit)
        except NotFound as error:
            raise self._calls.missing(client, self._maker.stream_arn, self._shard) from error

    def _moved(self, place: Place) -> Place:
        logger.warning("position not in the stream any more: from the oldest record", extra=self._about())
        return place.oldest()

    def _new_iterator(self, client: Any, place: Place) -> str:
        kind = {"ShardIteratorType": "TRIM_HORIZON"}
        if place.after is not None:
            kind = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": place.after}
        return new_iterator(self._calls, client, self._maker.stream_arn, self._shard, kind)

    def _page(self, client: Any, place: Place, iterator: str, limit: int) -> _Fetched:
        with dynamodb_errors(self._calls.name):
            page: Found = client.get_records(ShardIterator=iterator, Limit=limit)[FOUND]
        found, onward = page.records, page.next_shard_iterator
        wanted = place.wanted(found)
        return _Fetched(
            self._maker.records(wanted, self._clock.now()),
            len(found),
            place.passed(found, len(wanted), onward),
            ended=onward is None,
        )

    def _about(self, **fields: object) -> dict[str, object]:
        return {"stream": self._calls.name, "shard": self._shard, **fields}


def new_iterator(calls: DynamoDbCalls, client: Any, stream_arn: str, shard: str, kind: dict[str, str]) -> str:
    """A shard iterator, within a call's `work`.

    Raises:
        SourceUnavailable: no answer; its subclasses where it matters why.
        Refused: the stream refuses us.
    """
    with dynamodb_errors(calls.name):
        answer = client.get_shard_iterator(StreamArn=stream_arn, ShardId=shard, **kind)
        iterator = answer.get("ShardIterator")
    if not isinstance(iterator, str):
        raise SourceUnavailable(f"{calls.name}: no iterator of {shard}")
    return iterator


def _not_before(one: dict[str, Any], since: float) -> bool:
    """True for a record of unknown age, too: better twice than not at all."""
    at = created_at(one)
    return at is None or at >= since
