"""An opened Kinesis stream: its shards, and a reader for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from millstream.contract.clock import Clock
from millstream.contract.seldom import Seldom
from millstream.contract.streams import Partition, Start, StreamReader
from millstream.triggers.kinesis_client import KinesisCalls, NotFound, SameStream, find_stream, identity_of
from millstream.triggers.kinesis_fanout import FanoutReader
from millstream.triggers.kinesis_held import Buffer
from millstream.triggers.kinesis_polling import PollingReader
from millstream.triggers.kinesis_records import HashRange, RecordMaker


class KinesisSource:
    """Implements StreamSource. Owns the calls, and closes them."""

    def __init__(self, calls: KinesisCalls, clock: Clock, unpacks: bool, buffer_bytes: int) -> None:
        self._calls = calls
        self._stream = calls.stream
        self._clock = clock
        self._unpacks = unpacks
        self._buffer = Buffer(buffer_bytes)
        self._identity: str | None = None
        self._ranges: dict[str, HashRange] = {}  # by shard
        self._seldom = Seldom(clock.monotonic)

    @property
    def identity(self) -> str | None:
        """When the stream was made: shard ids begin at 0 again in one that is made anew."""
        return self._identity

    @property
    def event_source_arn(self) -> str:
        return self._stream.consumer_arn or self._stream.arn

    async def partitions(self) -> Sequence[Partition]:
        identity, shards = await self._calls.call(self._listed)
        self._identity = identity
        self._ranges = {shard["ShardId"]: _hash_range(shard) for shard in shards if "HashKeyRange" in shard}
        return [_partition(shard) for shard in shards]

    async def mark(self) -> float:
        """Our time or the service's, in whole seconds, whichever is earlier: a clock ahead misses nothing."""
        find = partial(find_stream, called=self._stream.called, name=self._stream.name)
        theirs: float | None = (await self._calls.call(find))["time"]
        ours = self._clock.now()
        now = ours if theirs is None else min(ours, theirs)
        return math.floor(now * 1000) / 1000  # arrival times have no more

    async def reader(self, partition: Partition, start: Start) -> StreamReader:
        polled = self._stream.consumer_arn is None
        # The service, too, leaves packed records of another shard out with fan-out only.
        hash_range = None if polled else self._ranges.get(partition.id)
        maker = RecordMaker.of(partition.id, self.event_source_arn, self._unpacks, hash_range, self._seldom)
        kind = PollingReader if polled else FanoutReader
        same = SameStream(partition.id, lambda: self._identity)
        return kind(self._calls, maker, start, self._clock, self._buffer, same)

    async def aclose(self) -> None:
        self._calls.close()

    def _listed(self, client: Any) -> tuple[str | None, list[dict[str, Any]]]:
        """The stream's identity, and its shards.

        Asked in this order: of a stream that is made anew in between, the next list tells.
        """
        identity = identity_of(client, self._stream)
        try:
            return identity, self._calls.shards(client)
        except NotFound as error:
            raise self._calls.missing(client, "its shards") from error


def _partition(shard: dict[str, Any]) -> Partition:
    parents = {shard.get("ParentShardId"), shard.get("AdjacentParentShardId")}
    closed = shard["SequenceNumberRange"].get("EndingSequenceNumber") is not None
    return Partition(shard["ShardId"], frozenset(parent for parent in parents if parent), closed)


def _hash_range(shard: dict[str, Any]) -> HashRange:
    found = shard["HashKeyRange"]
    return HashRange(int(found["StartingHashKey"]), int(found["EndingHashKey"]))
