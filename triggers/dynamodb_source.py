"""An opened DynamoDB stream: its shards, and where LATEST begins in each of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from millstream.contract.clock import Clock
from millstream.contract.seldom import Seldom
from millstream.contract.streams import After, At, Oldest, Partition, Start
from millstream.triggers import dynamodb_lineage
from millstream.triggers.dynamodb_client import DynamoDbCalls, NotFound
from millstream.triggers.dynamodb_lineage import Lineage
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
    """Implements StreamSource. `look` is called once before anything else."""

    def __init__(self, calls: DynamoDbCalls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._lineage = Lineage(calls)
        self._latest = calls.declared  # ARN of the stream
        self._identity: str | None = None
        self._stream_of: dict[str, str] = {}  # ARNs by shard
        self._mark = _Mark()
        self._said_disabled = ""  # ARN of the stream
        self._seldom = Seldom(clock.monotonic)

    @property
    def identity(self) -> str | None:
        return self._identity

    @property
    def event_source_arn(self) -> str:
        return self._latest

    async def look(self) -> None:
        """Find the stream. Raises as `partitions`."""
        await self.partitions()

    async def partitions(self) -> Sequence[Partition]:
        streams = await self._calls.call(self._lineage.streams)
        self._take(streams)
        return dynamodb_lineage.partitions(streams)

    def _take(self, streams: Sequence[dict[str, Any]]) -> None:
        self._identity = dynamodb_lineage.identity(streams)
        self._latest = streams[-1]["StreamArn"]
        self._stream_of = {
            shard["ShardId"]: description["StreamArn"]
            for description in streams
            for shard in description["Shards"]
        }
        if streams[-1].get("StreamStatus") == "DISABLED" and self._said_disabled != self._latest:
            self._said_disabled = self._latest
            logger.warning(
                "stream is disabled: it is read to its end, and brings nothing new",
                extra={"stream": self._calls.name},
            )

    async def mark(self) -> float:
        """The time now, by whichever clock is behind: ours or the service's.

        DynamoDB Streams cannot be searched by time. Iterators of all shards that are open now are
        held for the readers that follow soon. Others begin at the oldest record, and pass over those
        that were created before the second of the mark.
        """
        ours = self._clock.now()
        theirs, iterators = await self._calls.call(self._ends)
        at = ours if theirs is None else min(ours, theirs)
        self._mark = _Mark(at, iterators)
        return at

    async def reader(self, partition: Partition, start: Start) -> DynamoDbReader:
        stream = self._stream_of.get(partition.id, self._latest)
        maker = RecordMaker(partition.id, stream, self._seldom)
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

    def _ends(self, client: Any) -> tuple[float | None, dict[str, str]]:
        """The service's time before, and an iterator for each open shard."""
        streams = self._lineage.streams(client)
        iterators: dict[str, str] = {}
        for description in streams:
            for shard in description["Shards"]:
                if dynamodb_lineage.closed(shard):
                    continue
                try:
                    kind = {"ShardIteratorType": "LATEST"}
                    found = new_iterator(
                        self._calls, client, description["StreamArn"], shard["ShardId"], kind
                    )
                except NotFound:  # gone in between, and its records with it
                    continue
                iterators[shard["ShardId"]] = found
        return streams[0]["time"], iterators
