"""RabbitMQ queues, quorum and classic, as an event source.

A record's position and item id are a number that counts on over reconnects; its receipt is the same
number, which tells the connection and the delivery tag on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from millstream.amqp.address import Address
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
    QueuePolicy,
)
from millstream.contract.records import Record
from millstream.triggers.rabbitmq_consumer import Subscription
from millstream.triggers.rabbitmq_messages import RecordMaker, envelope
from millstream.triggers.rabbitmq_reader import RabbitMqReader

QUEUE = "a queue's name, of 1 to 255 bytes"

DEFAULT_WINDOW_S = 0.5
"""Source: AWS, CreateEventSourceMapping: 500 ms for Amazon MQ where no window is set."""

MOST_PREFETCHED = 65_535
"""Source: AMQP 0-9-1, basic.qos: the count has 16 bits."""

LONGEST_FUNCTION_S = 840
"""Source: AWS, "Using Lambda with Amazon MQ": functions of more than 14 minutes are refused."""

LONGEST_HELD_S = 1200.0
"""How long a record may be held before it is settled, if a batch is to be read ahead. RabbitMQ closes the
channel after 30 minutes. Source: RabbitMQ, "Consumers", delivery acknowledgement timeout."""


def _queue(text: str) -> str:
    if not 0 < len(text.encode()) < 256:
        raise ValueError(QUEUE)
    return text


class RabbitMqOptions(RabbitMqConnectionOptions):
    """Options of a RabbitMQ mapping, by AWS's names in snake_case; durations in seconds.

    `maximum_retry_attempts` above 1 needs a queue that counts: a quorum queue, or one that is reached
    again by way of its dead-letter exchange.

    `concurrency`, `report_batch_item_failures`, `maximum_retry_attempts` and `requeue` are ours. What
    fails goes back to the queue, or with `requeue=False` to its dead-letter exchange: without one the
    broker drops it.
    """

    queue: Annotated[str, AfterValidator(_queue)] = Field(description=QUEUE)
    batch_size: int = Field(default=100, ge=1, le=10_000, description="a whole number from 1 to 10000")
    batching_window: float = Field(
        default=DEFAULT_WINDOW_S, ge=0, le=300, description="a number of seconds from 0 to 300"
    )
    concurrency: int = Field(default=1, ge=1, le=1000, description="a whole number from 1 to 1000")
    report_batch_item_failures: bool = Field(default=False, description="True or False")
    maximum_retry_attempts: int | None = Field(
        default=None, ge=0, le=10_000, description="a whole number from 0 to 10000"
    )
    requeue: bool = Field(default=True, description="True or False")

    def misfits(self) -> list[Problem]:
        problems = super().misfits()
        most = MOST_PREFETCHED // self.batch_size
        if self.concurrency > most:
            wanted = f"at most {most} beside batch_size={self.batch_size}: {MOST_PREFETCHED} records are held"
            problems.append(Problem("", "concurrency", wanted, str(self.concurrency)))
        return problems


@dataclass(frozen=True)
class RabbitMqTrigger:
    """The declared source of one mapping on a RabbitMQ queue."""

    options: RabbitMqOptions
    address: Address  # by the options and the environment
    event_source_arn: str

    capabilities = Capabilities(counts_deliveries=True, keeps_ids=False)
    filter_rules = FilterRules("data", ("data",), DataFormat.BASE64, Mismatch.IGNORE_DATA)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        parsed = parse_options(RabbitMqOptions, options, SECRET_FIELDS)
        return cls(parsed, parsed.address, parsed.source_arn)

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(self.options.batch_size, self.options.batching_window, from_first=True)

    @property
    def policy(self) -> QueuePolicy:
        return QueuePolicy(
            item_failures=self.options.report_batch_item_failures,
            max_retries=self.options.maximum_retry_attempts,
            concurrency=self.options.concurrency,
            page=self.options.batch_size,
            drops_too_large=True,
        )

    @property
    def source(self) -> str:
        return self.address.holding(self.options.queue)

    async def open(self, host: Host, function: FunctionSpec) -> RabbitMqReader:
        """Connect, and consume.

        Raises:
            InvalidConfiguration: the queue, its virtual host or the login is refused, or the function
                may run for too long.
            SourceUnavailable: the broker does not answer now.
        """
        timeout_s = function.timeout_s
        if timeout_s > LONGEST_FUNCTION_S:
            wanted = f"a function with a timeout of at most {LONGEST_FUNCTION_S} s"
            raise InvalidConfiguration([Problem("", "queue", wanted, f"{timeout_s:g} s")])
        queue, numbered = self.options.queue, self.options.report_batch_item_failures
        asked = Subscription(
            self.address,
            queue,
            self.prefetch(timeout_s),
            self.options.requeue,
            f"millstream-{function.name}",
            0 if self.options.maximum_retry_attempts is None else self.options.maximum_retry_attempts + 1,
        )
        reader = RabbitMqReader(asked, RecordMaker(queue, self.address.virtual_host, numbered), host.clock)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(reader.aclose)
            await reader.connect()
            stack.pop_all()
        return reader

    def prefetch(self, timeout_s: float) -> int:
        """What may run at once, and a batch ahead, so that reading goes on while functions run."""
        size, concurrency = self.options.batch_size, self.options.concurrency
        ahead = 2 * timeout_s + self.options.batching_window <= LONGEST_HELD_S
        return min(size * (concurrency + ahead), MOST_PREFETCHED)

    def envelope(self, records: Sequence[Record]) -> bytes:
        return envelope(self.event_source_arn, records[0].partition, records)

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """Ours, for AWS has no failure records of queues: which queue, how many messages, and when."""
        arrived = [record.arrived_at for record in records]
        return {
            "RabbitMQBatchInfo": {
                "eventSourceArn": self.event_source_arn,
                "queue": self.options.queue,
                "virtualHost": self.address.virtual_host,
                "batchSize": len(records),
                "timestampOfFirstMessage": _iso(min(arrived)),
                "timestampOfLastMessage": _iso(max(arrived)),
            }
        }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
