"""An opened DynamoDB stream: its shards, and where LATEST begins in each of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, assert_never

from millstream.contract.clock import Clock
from millstream.contract.streams import After, At, Oldest, Partition, Start
from millstream.triggers.dynamodb_client import DynamoDbCalls, NotFound, describe_stream
from millstream.triggers.dynamodb_reader import DynamoDbReader, Place, new_iterator
from millstream.triggers.dynamodb_records import RecordMaker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Iterators that lead to where LATEST began, for 15 minutes.

    Source: AWS, DynamoDB Streams, GetShardIterator.
    """

    at: float = math.nan  # Unix seconds, as `mark` told it
    iterators: dict[str, str] = field(default_factory=dict)  # by shard


class DynamoDbSource:
    """Implements StreamSource."""

    def __init__(self, calls: DynamoDbCalls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._mark = _Mark()
        self._said_disabled = False

    @property
    def identity(self) -> str | None:
        return None

    @property
    def event_source_arn(self) -> str:
        return self._calls.arn

    async def partitions(self) -> Sequence[Partition]:
        description = await self._calls.call(self._described)
        if description.get("StreamStatus") == "DISABLED" and not self._said_disabled:
            self._said_disabled = True
            logger.warning(
                "stream is disabled: it is read to its end, and brings nothing new",
                extra={"stream": self._calls.name},
            )
        return [_partition(shard) for shard in description["Shards"]]

    async def mark(self) -> float:
        """The time now, by whichever clock is behind: ours or the service's.

        DynamoDB Streams cannot be searched by time. Iterators of all shards that are open now are
        held for the readers that follow soon. Others begin at the oldest record, and pass over those
        that were created before the second of the mark.
        """
        ours = self._clock.now()
        date, iterators = await self._calls.call(self._latest)
        at = ours if date is None else min(ours, date)
        self._mark = _Mark(at, iterators)
        return at

    async def reader(self, partition: Partition, start: Start) -> DynamoDbReader:
        maker = RecordMaker(partition.id, self._calls.arn)
        place = self._place(partition.id, start)
        return DynamoDbReader(self._calls, maker, place, self._clock, closed=partition.closed)

    async def aclose(self) -> None:
        self._calls.close()

    def _place(self, shard: str, start: Start) -> Place:
        match start:
            case Oldest():
                return Place()
            case After(position):
                return Place(after=position)
            case At(timestamp):
                held = self._mark.iterators.get(shard) if timestamp == self._mark.at else None
                since = float(math.floor(timestamp))  # creation times are whole seconds
                return Place(since=since, iterator=held, searching=held is None)
            case _:
                assert_never(start)

    def _described(self, client: Any) -> dict[str, Any]:
        return describe_stream(client, self._calls.arn)

    def _latest(self, client: Any) -> tuple[float | None, dict[str, str]]:
        """The service's time before, and an iterator for each open shard."""
        description = self._described(client)
        iterators: dict[str, str] = {}
        for shard in description["Shards"]:
            if not _closed(shard):
                try:
                    kind = {"ShardIteratorType": "LATEST"}
                    iterators[shard["ShardId"]] = new_iterator(self._calls, client, shard["ShardId"], kind)
                except NotFound:  # gone in between, and its records with it
                    continue
        return _seconds(description["date"]), iterators


def _partition(shard: dict[str, Any]) -> Partition:
    parent = shard.get("ParentShardId")
    return Partition(shard["ShardId"], frozenset({parent} if parent else ()), _closed(shard))


def _closed(shard: dict[str, Any]) -> bool:
    return bool(shard.get("SequenceNumberRange", {}).get("EndingSequenceNumber"))


def _seconds(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
