"""RabbitMQ queues, quorum and classic, as an event source.

A record's position and item id are a number that counts on over reconnects; its receipt is the same
number, which tells the connection and the delivery tag on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
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
    RetryInPlace,
)
from millstream.contract.records import Record
from millstream.contract.times import iso_ms
from millstream.triggers.rabbitmq_consumer import Subscription
from millstream.triggers.rabbitmq_deliveries import DeliveryWatch
from millstream.triggers.rabbitmq_messages import RecordMaker, envelope
from millstream.triggers.rabbitmq_reader import RabbitMqReader

QUEUE = "a queue's name, of 1 to 255 bytes"

DEFAULT_WINDOW_S = 0.5
"""Source: AWS, CreateEventSourceMapping: 500 ms for Amazon MQ where no window is set."""

MOST_PREFETCHED = 65_535
"""Source: AMQP 0-9-1, basic.qos: the count has 16 bits."""

LONGEST_FUNCTION_S = 840
"""Source: AWS, "Using Lambda with Amazon MQ": functions of more than 14 minutes are refused."""

CONSUMER_TIMEOUT_S = 1800
"""Source: RabbitMQ, "Consumers", delivery acknowledgement timeout: the broker closes the channel after it."""

HELD_SHARE = 0.9
"""The share of `consumer_timeout` for which records are held: the broker's clock starts before ours."""

READ_AHEAD_SHARE = 2 / 3
"""The share of `consumer_timeout` that a batch read ahead and the one before it may take together."""

RETRY_DELAY_S = 1.0
RETRY_BACKOFF_MAX_S = 60.0
"""Waits before a failed batch is tried again. A minute at most: a function that works again is noticed soon,
and one that is down is invoked about 30 times before the queue has its messages back."""


def _queue(text: str) -> str:
    if not 0 < len(text.encode()) < 256:
        raise ValueError(QUEUE)
    return text


class RabbitMqOptions(RabbitMqConnectionOptions):
    """Options of a RabbitMQ mapping, by AWS's names in snake_case; durations in seconds.

    `maximum_retry_attempts` above 1 needs a queue that counts: a quorum queue, or one that is reached
    again by way of its dead-letter exchange.

    `concurrency`, `report_batch_item_failures`, `maximum_retry_attempts`, `requeue`, `retry_delay`,
    `retry_backoff_max` and `consumer_timeout` are ours. What fails is held, and tried again after
    `retry_delay`, doubled up to `retry_backoff_max`; the queue has it back when the broker's own
    `consumer_timeout` comes near. With `requeue=False` it goes to the queue's dead-letter exchange at
    once: without one the broker drops it.
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
    retry_delay: float = Field(
        default=RETRY_DELAY_S, ge=0.1, le=900, description="a number of seconds from 0.1 to 900"
    )
    retry_backoff_max: float = Field(
        default=RETRY_BACKOFF_MAX_S, ge=0.1, le=900, description="a number of seconds from 0.1 to 900"
    )
    consumer_timeout: int = Field(
        default=CONSUMER_TIMEOUT_S,
        ge=60,
        le=2_592_000,
        description="the broker's consumer_timeout, a whole number of seconds from 60 to 2592000",
    )

    def misfits(self) -> list[Problem]:
        problems = super().misfits()
        most = MOST_PREFETCHED // self.batch_size
        if self.concurrency > most:
            wanted = f"at most {most} beside batch_size={self.batch_size}: {MOST_PREFETCHED} records are held"
            problems.append(Problem("", "concurrency", wanted, str(self.concurrency)))
        if self.retry_backoff_max < self.retry_delay:
            wanted = f"at least retry_delay={self.retry_delay:g}"
            problems.append(Problem("", "retry_backoff_max", wanted, f"{self.retry_backoff_max:g}"))
        return problems

    @property
    def held_s(self) -> float:
        """For how long a record may be held before it is settled."""
        return self.consumer_timeout * HELD_SHARE


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
            rejects=True,
            in_place=self._in_place,
        )

    @property
    def _in_place(self) -> RetryInPlace | None:
        """None: what fails is dead-lettered at once, as a user of `requeue=False` wants it."""
        given = self.options
        if not given.requeue:
            return None
        return RetryInPlace(given.retry_delay, given.retry_backoff_max, given.held_s)

    @property
    def source(self) -> str:
        return self.address.holding(self.options.queue)

    async def open(self, host: Host, function: FunctionSpec) -> RabbitMqReader:
        """Connect, and consume.

        Raises:
            InvalidConfiguration: the queue is a stream, or the function may run for too long.
            Refused: the queue, its virtual host or the login is refused.
            SourceUnavailable: the broker does not answer now.
        """
        fresh_s = self._fresh_s(function.timeout_s)
        queue, numbered = self.options.queue, self.options.report_batch_item_failures
        retries = self.options.maximum_retry_attempts
        asked = Subscription(
            self.address,
            queue,
            self.prefetch(function.timeout_s),
            self.options.requeue,
            f"millstream-{function.name}",
            fresh_s,
        )
        maker = RecordMaker(queue, self.address.virtual_host, numbered)
        watch = DeliveryWatch(queue, 0 if retries is None else retries + 1)
        reader = RabbitMqReader(asked, maker, watch, host.clock)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(reader.aclose)
            await reader.connect()
            stack.pop_all()
        return reader

    def _fresh_s(self, timeout_s: float) -> float:
        """For how long a record may wait before its batch begins: what the function's timeout leaves.

        Raises:
            InvalidConfiguration: it leaves nothing.
        """
        if timeout_s > LONGEST_FUNCTION_S:
            wanted = f"a function with a timeout of at most {LONGEST_FUNCTION_S} s"
            raise InvalidConfiguration([Problem("", "queue", wanted, f"{timeout_s:g} s")])
        fresh_s = self.options.held_s - timeout_s - self.options.batching_window
        if fresh_s < 1:
            least = math.ceil((timeout_s + self.options.batching_window + 1) / HELD_SHARE)
            wanted = f"at least {least} beside the function's timeout of {timeout_s:g} s"
            raise InvalidConfiguration(
                [Problem("", "consumer_timeout", wanted, str(self.options.consumer_timeout))]
            )
        return fresh_s

    def prefetch(self, timeout_s: float) -> int:
        """Count what may run at once, one batch that rests before its next try, and one that is read ahead.

        So reading goes on while functions run, and while one fails. Not where functions run for so long
        that what is read ahead would wait beyond the broker's patience.
        """
        size, concurrency = self.options.batch_size, self.options.concurrency
        longest_s = 2 * timeout_s + self.options.batching_window
        ahead = 2 if longest_s <= self.options.consumer_timeout * READ_AHEAD_SHARE else 0
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
                "timestampOfFirstMessage": iso_ms(min(arrived)),
                "timestampOfLastMessage": iso_ms(max(arrived)),
            }
        }
