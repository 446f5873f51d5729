"""RabbitMQ streams as an event source.

A stream is one partition; a record's position is its offset, and the time at which the broker wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field

from millstream.amqp.address import STREAM, Address, Protocol
from millstream.amqp.options import SECRET_FIELDS, RabbitMqConnectionOptions
from millstream.contract.errors import InvalidConfiguration, Problem
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
from millstream.contract.stream_options import TimedStreamOptions
from millstream.contract.streams import StartingPosition, StreamPolicy, StreamSource
from millstream.contract.times import iso_ms
from millstream.triggers.rabbitmq_messages import envelope, partition

STREAM_NAME = "a stream's name, of 1 to 255 bytes"


def _stream(text: str) -> str:
    if not 0 < len(text.encode()) < 256:
        raise ValueError(STREAM_NAME)
    return text


class RabbitMqStreamOptions(RabbitMqConnectionOptions, TimedStreamOptions):
    """Options of a mapping on a RabbitMQ stream. Each partition of a super stream is a stream, too."""

    protocol: ClassVar[Protocol] = STREAM

    stream: Annotated[str, AfterValidator(_stream)] = Field(description=STREAM_NAME)


@dataclass(frozen=True)
class RabbitMqStreamTrigger:
    """The declared source of one mapping on a stream. Its events are those of RabbitMQ's queues."""

    options: RabbitMqStreamOptions
    address: Address  # by the options and the environment
    event_source_arn: str

    capabilities = Capabilities(ordered_by_key=True)
    filter_rules = FilterRules("data", ("data",), DataFormat.BASE64, Mismatch.IGNORE_DATA)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        parsed = parse_options(RabbitMqStreamOptions, options, SECRET_FIELDS)
        return cls(parsed, parsed.address, parsed.source_arn)

    @property
    def limits(self) -> BatchLimits:
        return self.options.limits

    @property
    def policy(self) -> StreamPolicy:
        return replace(self.options.policy, item_id=_item_id)

    @property
    def starting_position(self) -> StartingPosition:
        return self.options.start

    @property
    def source(self) -> str:
        return self.address.holding(self.options.stream)

    async def open(self, host: Host, function: FunctionSpec) -> StreamSource:
        """Find the stream.

        Raises:
            InvalidConfiguration: rstream is not installed.
            Refused: it is not there, or the login is refused.
            SourceUnavailable: the broker does not answer now.
        """
        try:
            from millstream.triggers.rabbitmq_stream_client import Named
            from millstream.triggers.rabbitmq_stream_source import RabbitMqStreamSource
        except ModuleNotFoundError as missing:
            wanted = "the rabbitmq-streams extra (pip install 'millstream[rabbitmq-streams]')"
            raise InvalidConfiguration([Problem("", "stream", wanted, f"no {missing.name}")]) from missing
        named = Named(self.address, self.options.stream, f"millstream-{function.name}")
        source = RabbitMqStreamSource(named, self.event_source_arn, host.clock, host.buffer_bytes)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(source.aclose)
            await source.partitions()
            stack.pop_all()
        return source

    def envelope(self, records: Sequence[Record]) -> bytes:
        queue = partition(records[0].partition, self.address.virtual_host)
        return envelope(self.event_source_arn, queue, records)

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """Ours, in the manner of other streams: which records, and when the broker got them."""
        first, last = records[0], records[-1]
        return {
            "RabbitMQStreamBatchInfo": {
                "stream": first.partition,
                "virtualHost": self.address.virtual_host,
                "startOffset": first.item_id,
                "endOffset": last.item_id,
                "approximateArrivalOfFirstRecord": iso_ms(first.arrived_at),
                "approximateArrivalOfLastRecord": iso_ms(last.arrived_at),
                "batchSize": len(records),
                "eventSourceArn": self.event_source_arn,
            }
        }


def _item_id(identifier: object) -> str | None:
    """The id that an `itemIdentifier` is: an offset, as a number or as a string."""
    if isinstance(identifier, bool) or not isinstance(identifier, int | str):
        return None
    return str(identifier)
