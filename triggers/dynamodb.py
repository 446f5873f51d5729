"""DynamoDB Streams as an event source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from millstream.aws.arn import parse_arn
from millstream.contract import outside_json
from millstream.contract.blocking import BlockingClient
from millstream.contract.functions import FunctionSpec
from millstream.contract.options import parse_options
from millstream.contract.ports import (
    BatchLimits,
    Capabilities,
    DataFormat,
    FilterRules,
    Host,
    JsonObject,
    Mismatch,
)
from millstream.contract.records import Record
from millstream.contract.stream_options import ShardOptions
from millstream.contract.streams import Latest, Oldest, StartingPosition, StreamPolicy
from millstream.contract.times import iso_s
from millstream.triggers.dynamodb_client import open_calls
from millstream.triggers.dynamodb_source import DynamoDbSource

STREAM = "a stream's ARN, or a table's name or ARN"

STARTS = '"TRIM_HORIZON" or "LATEST" (DynamoDB Streams cannot be read from a time on)'
"""Source: AWS, CreateEventSourceMapping, StartingPosition."""

_TABLE = "[A-Za-z0-9_.-]{3,255}"
_NAME = re.compile(_TABLE)
_RESOURCE = re.compile(rf"table/{_TABLE}(/stream/[^/]+)?")


def _stream(text: str) -> str:
    arn = parse_arn(text)
    known = _NAME.fullmatch(text) is not None
    if arn is not None:
        known = arn.service == "dynamodb" and _RESOURCE.fullmatch(arn.resource) is not None
    if not known:
        raise ValueError(STREAM)
    return text


class DynamoDbOptions(ShardOptions):
    """Options of a mapping on a DynamoDB stream."""

    stream: Annotated[str, AfterValidator(_stream)] = Field(description=STREAM)
    starting_position: Literal["TRIM_HORIZON", "LATEST"] = Field(description=STARTS)


@dataclass(frozen=True)
class DynamoDbTrigger:
    """The declared source of one mapping on a DynamoDB stream."""

    options: DynamoDbOptions

    filter_rules = FilterRules("dynamodb", ("dynamodb",), DataFormat.JSON, Mismatch.DROP)
    capabilities = Capabilities(ordered_by_key=True)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(DynamoDbOptions, options))

    @property
    def limits(self) -> BatchLimits:
        return self.options.limits

    @property
    def policy(self) -> StreamPolicy:
        return self.options.policy

    @property
    def starting_position(self) -> StartingPosition:
        return Latest() if self.options.starting_position == "LATEST" else Oldest()

    @property
    def source(self) -> str:
        return self.options.stream

    async def open(self, host: Host, function: FunctionSpec) -> DynamoDbSource:
        """Find the stream; that of a table is the latest one, and what came before it.

        Raises:
            Refused: no such stream or table, or the table has no stream.
            SourceUnavailable: the endpoint does not answer now.
        """
        opening = BlockingClient(f"dynamodb-open-{self.source}", 1)
        try:
            calls = await opening.call(open_calls, self.source, host)
        finally:
            opening.close()
        source = DynamoDbSource(calls, host.clock)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(source.aclose)
            await source.look()
            undo.pop_all()
        return source

    def envelope(self, records: Sequence[Record]) -> bytes:
        return b'{"Records":[' + b",".join([record.event for record in records]) + b"]}"

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """Which records failed; their times are whole seconds.

        Source: AWS, "Retain discarded batch records in Lambda for DynamoDB".
        """
        first, last = records[0], records[-1]
        return {
            "DDBStreamBatchInfo": {
                "shardId": first.partition,
                "startSequenceNumber": first.item_id,
                "endSequenceNumber": last.item_id,
                "approximateArrivalOfFirstRecord": iso_s(first.arrived_at),
                "approximateArrivalOfLastRecord": iso_s(last.arrived_at),
                "batchSize": len(records),
                "streamArn": outside_json.read(first.event)["eventSourceARN"],
            }
        }
