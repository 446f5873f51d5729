"""Kinesis data streams as an event source: polled, or pushed to an enhanced fan-out consumer.

The partitions are the stream's shards; a record's position is its sequence number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from millstream.aws.arn import Arn, parse_arn
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
from millstream.contract.stream_options import ShardOptions, TimedStreamOptions
from millstream.contract.streams import StartingPosition, StreamPolicy
from millstream.contract.times import iso_ms
from millstream.triggers.kinesis_client import (
    KinesisCalls,
    Stream,
    find_consumer,
    find_stream,
    kinesis_errors,
    new_client,
)
from millstream.triggers.kinesis_source import KinesisSource

STREAM = "a stream's name or ARN, or the ARN of a consumer of it"

_NAME = "[A-Za-z0-9_.-]{1,128}"
_RESOURCE = re.compile(rf"stream/(?P<stream>{_NAME})(?P<consumer>/consumer/{_NAME}:[0-9]+)?")


def _stream(text: str) -> str:
    arn = parse_arn(text)
    if arn is None:
        fits = re.fullmatch(_NAME, text)
    else:
        fits = _RESOURCE.fullmatch(arn.resource) if arn.service == "kinesis" and arn.region else None
    if fits is None:
        raise ValueError(STREAM)
    return text


class KinesisOptions(TimedStreamOptions, ShardOptions):
    """Options of a Kinesis mapping; `deaggregate` is ours."""

    stream: Annotated[str, AfterValidator(_stream)] = Field(description=STREAM)
    deaggregate: bool = Field(default=False, description="True or False")


@dataclass
class KinesisTrigger:
    """The declared source of one mapping on a Kinesis stream."""

    options: KinesisOptions
    _found_arn: str = field(default="", init=False)  # of the stream, once it was opened

    capabilities = Capabilities(ordered_by_key=True)
    filter_rules = FilterRules("data", ("kinesis", "data"), DataFormat.BASE64, Mismatch.DROP)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(KinesisOptions, options))

    @property
    def limits(self) -> BatchLimits:
        return self.options.limits

    @property
    def policy(self) -> StreamPolicy:
        return self.options.policy

    @property
    def starting_position(self) -> StartingPosition:
        return self.options.start

    @property
    def source(self) -> str:
        return self.options.stream

    async def open(self, host: Host, function: FunctionSpec) -> KinesisSource:
        """Find the stream, and the consumer if one is declared.

        Raises:
            Refused: there is no such stream or consumer, or it is being deleted.
            SourceUnavailable: the endpoint does not answer now, or the stream is being created.
        """
        opening = BlockingClient(f"kinesis-open-{self._name}", 1)
        try:
            client, stream = await opening.call(_find, self.options.stream, self._name, host)
        finally:
            opening.close()
        self._found_arn = stream.arn
        calls = KinesisCalls(client, stream)
        return KinesisSource(calls, host.clock, self.options.deaggregate, host.buffer_bytes)

    @property
    def _name(self) -> str:
        arn = parse_arn(self.options.stream)
        return self.options.stream if arn is None else arn.resource.split("/")[1]

    def envelope(self, records: Sequence[Record]) -> bytes:
        return b'{"Records":[' + b",".join([record.event for record in records]) + b"]}"

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """Which records failed, and when they came.

        Source: AWS, "Retain discarded batch records for a Kinesis Data Streams event source".
        """
        first, last = records[0], records[-1]
        return {
            "KinesisBatchInfo": {
                "shardId": first.partition,
                "startSequenceNumber": first.item_id,
                "endSequenceNumber": last.item_id,
                "approximateArrivalOfFirstRecord": iso_ms(first.arrived_at),
                "approximateArrivalOfLastRecord": iso_ms(last.arrived_at),
                "batchSize": len(records),
                "streamArn": self._found_arn,
            }
        }


def _find(declared: str, name: str, host: Host) -> tuple[Any, Stream]:
    """A client, and the stream as the service knows it."""
    arn = parse_arn(declared)
    with kinesis_errors(name):
        client = new_client(host, arn.region if arn is not None else None)
    with ExitStack() as undo:
        undo.callback(client.close)
        found = _look(client, declared, name, arn)
        undo.pop_all()
    return client, found


def _look(client: Any, declared: str, name: str, arn: Arn | None) -> Stream:
    if arn is None:
        called, consumer = {"StreamName": name}, None
    elif "/consumer/" in arn.resource:
        called, consumer = {"StreamARN": find_consumer(client, declared)["StreamARN"]}, declared
    else:
        called, consumer = {"StreamARN": declared}, None
    return Stream(name, find_stream(client, called, name)["StreamARN"], called, consumer)
