"""Which streams a declaration means, and how their shards follow one another.

A table whose stream was disabled and enabled again, or that was made anew, has a new stream with an ARN of
its own, while the one before can be read for a day. A mapping that is declared by the table reads one after
the other: the first shards of the new stream are children of the last ones of the old stream.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from millstream.contract.errors import Refused
from millstream.contract.streams import Partition
from millstream.triggers.dynamodb_client import DynamoDbCalls, NotFound, describe_stream, dynamodb_errors

logger = logging.getLogger(__name__)

_TELLING = re.compile(r"shardId-0*[1-9][0-9]*-.+")

Shard = dict[str, Any]


class Lineage:
    """The streams of one mapping, the latest last. Its calls block, and are made one at a time."""

    def __init__(self, calls: DynamoDbCalls) -> None:
        self._calls = calls
        self._known: list[str] = []  # ARNs

    def streams(self, client: Any) -> list[dict[str, Any]]:
        """The description of each stream, as the service has it now; never empty.

        Raises:
            Refused: there is no such stream or table, or the table has no stream.
            SourceUnavailable: no answer.
        """
        known = [self._calls.declared] if self._calls.tables is None else self._of_table(client)
        found = [description for arn in known[:-1] if (description := _if_there(client, arn)) is not None]
        found.append(describe_stream(client, known[-1]))
        self._known = [str(description["StreamArn"]) for description in found]
        return found if all(map(tells_by_itself, _ids(found))) else found[-1:]

    def _of_table(self, client: Any) -> list[str]:
        latest = self._latest()
        if latest in self._known:
            return self._known
        if self._known:
            logger.warning(
                "table has a new stream: it is read after the one before",
                extra={"table": self._calls.name, "stream": latest},
            )
        earlier = [arn for arn in self._listed(client, latest) if arn not in self._known]
        return [*sorted(arn for arn in {*earlier, *self._known} if arn < latest), latest]

    def _latest(self) -> str:
        """The ARN of the table's latest stream; while the table does not say, of the last one known."""
        declared = self._calls.declared
        try:
            with dynamodb_errors(declared):
                found = self._calls.tables.describe_table(TableName=declared).get("Table", {})
                latest = found.get("LatestStreamArn")
        except NotFound as error:
            if not self._known:
                raise Refused(f"no table {declared!r}") from error
            latest = None
        if not latest and not self._known:
            raise Refused(f"table {declared!r} has no stream: it is to be enabled")
        return str(latest or self._known[-1])

    def _listed(self, client: Any, latest: str) -> list[str]:
        """The streams that the table had in the last day."""
        of_table = latest.partition("/stream/")[0] + "/stream/"
        request: dict[str, Any] = {"TableName": self._calls.name}
        arns: list[str] = []
        while True:
            try:
                with dynamodb_errors(self._calls.name):
                    answer = client.list_streams(**request)
                    arns += [stream["StreamArn"] for stream in answer["Streams"]]
            except Refused as refused:  # the latest one can be read nevertheless
                extra = {"table": self._calls.name, "why": str(refused)}
                logger.warning("earlier streams of a table cannot be listed", extra=extra)
                return []
            last = answer.get("LastEvaluatedStreamArn")
            if not last:
                return [arn for arn in arns if arn.startswith(of_table)]
            request["ExclusiveStartStreamArn"] = last


def tells_by_itself(shard: str) -> bool:
    """True if a shard's id has the time at which it was made, as the service's have: no other is the same.

    An emulator may give one id to the shards of all streams.
    """
    return _TELLING.fullmatch(shard) is not None


def identity(streams: Sequence[dict[str, Any]]) -> str | None:
    """What tells a stream from an earlier one. None: its shards' ids do."""
    if all(map(tells_by_itself, _ids(streams))):
        return None
    return str(streams[-1]["StreamArn"])


def partitions(streams: Sequence[dict[str, Any]]) -> list[Partition]:
    """The shards of all streams. Those that begin a stream are children of those that end the one before."""
    found: list[Partition] = []
    leaves: frozenset[str] = frozenset()
    for description in streams:
        shards: list[Shard] = description["Shards"]
        parents = {shard["ShardId"]: shard.get("ParentShardId") for shard in shards}
        for shard, parent in zip(shards, parents.values(), strict=True):
            found.append(
                Partition(shard["ShardId"], frozenset({parent}) if parent else leaves, closed(shard))
            )
        leaves = frozenset(parents) - frozenset(parents.values()) or leaves
    return found


def closed(shard: Shard) -> bool:
    """True if a shard takes no more records."""
    return bool(shard.get("SequenceNumberRange", {}).get("EndingSequenceNumber"))


def _ids(streams: Sequence[dict[str, Any]]) -> list[str]:
    return [shard["ShardId"] for description in streams for shard in description["Shards"]]


def _if_there(client: Any, arn: str) -> dict[str, Any] | None:
    try:
        return describe_stream(client, arn)
    except Refused as refused:
        if not isinstance(refused.__cause__, NotFound):
            raise  # its records are there, and nothing of the next stream comes before them
        return None  # a day has passed, and its records are gone
