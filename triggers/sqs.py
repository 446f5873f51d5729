"""SQS queues, standard and FIFO, as an event source.

A record's position and item id are its message id, which stays the same over redeliveries; its
receipt is the receipt handle, which does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from millstream.aws.arn import Arn, parse_arn
from millstream.aws.clients import client_config, new_client
from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import Problem, Refused
from millstream.contract.functions import FunctionSpec
from millstream.contract.options import Options, parse_options
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
from millstream.contract.times import iso_ms
from millstream.triggers.sqs_client import source_errors
from millstream.triggers.sqs_messages import Queue
from millstream.triggers.sqs_reader import THREADS, SqsReader

FIFO = ".fifo"
FIFO_BATCH = 10
"""Largest batch of a FIFO queue. Source: AWS, CreateEventSourceMapping, BatchSize."""

UNWINDOWED_BATCH = 10
"""Largest batch without a window. Source: AWS, CreateEventSourceMapping, MaximumBatchingWindowInSeconds."""

EXTRA_VISIBILITY_S = 30
"""Added to window and function timeout where they exceed the queue's visibility timeout.
Source: AWS, "Using Lambda with Amazon SQS"."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}(\.fifo)?")


def _queue(text: str) -> str:
    arn = parse_arn(text)
    name = arn.resource if arn is not None and arn.service == "sqs" else text
    if text.startswith(("http://", "https://")):
        url = urlsplit(text)
        name = url.path.rpartition("/")[2] if url.hostname and url.username is None else ""
    if not _NAME.fullmatch(name):
        raise ValueError("a queue's name, URL or ARN")
    return text


class SqsOptions(Options):
    """Options of an SQS mapping, by AWS's names in snake_case; durations in seconds."""

    queue: Annotated[str, AfterValidator(_queue)] = Field(description="a queue's name, URL or ARN")
    batch_size: int = Field(default=10, ge=1, le=10_000, description="a whole number from 1 to 10000")
    batching_window: int = Field(
        default=0, ge=0, le=300, description="a whole number of seconds from 0 to 300"
    )
    report_batch_item_failures: bool = Field(default=False, description="True or False")
    maximum_concurrency: int | None = Field(
        default=None, ge=2, le=1000, description="a whole number from 2 to 1000"
    )
    maximum_retry_attempts: int | None = Field(
        default=None, ge=0, le=10_000, description="a whole number from 0 to 10000"
    )

    def misfits(self) -> list[Problem]:
        if self.queue is not None and self.queue.endswith(FIFO):
            problems = []
            if self.batch_size > FIFO_BATCH:
                problems.append(Problem("", "batch_size", "at most 10 on a FIFO queue", str(self.batch_size)))
            if self.batching_window:
                wanted = "no window on a FIFO queue"
                problems.append(Problem("", "batching_window", wanted, str(self.batching_window)))
            return problems
        if self.batch_size > UNWINDOWED_BATCH and not self.batching_window:
            wanted = "at least 1 where batch_size is greater than 10"
            return [Problem("", "batching_window", wanted, "0")]
        return []


@dataclass(frozen=True)
class SqsTrigger:
    """The declared source of one mapping on an SQS queue."""

    options: SqsOptions

    filter_rules = FilterRules("body", ("body",), DataFormat.TEXT, Mismatch.DROP)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(SqsOptions, options))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(ordered_by_key=self.options.queue.endswith(FIFO), counts_deliveries=True)

    @property
    def limits(self) -> BatchLimits:
        return BatchLimits(self.options.batch_size, float(self.options.batching_window))

    @property
    def policy(self) -> QueuePolicy:
        return QueuePolicy(
            item_failures=self.options.report_batch_item_failures,
            max_retries=self.options.maximum_retry_attempts,
            max_concurrency=self.options.maximum_concurrency,
        )

    @property
    def source(self) -> str:
        return self.options.queue

    async def open(self, host: Host, function: FunctionSpec) -> SqsReader:
        """Find the queue, and check that its visibility timeout lasts as long as the function may.

        Raises:
            InvalidConfiguration: the endpoint is no URL.
            Refused: no such queue, or its visibility timeout is too short.
            SourceUnavailable: the endpoint does not answer now.
        """
        opening = BlockingClient(f"sqs-open-{self._name}", 1)
        try:
            client, found = await opening.call(_find, self.options.queue, self._name, host)
        finally:
            opening.close()
        with ExitStack() as undo:
            undo.callback(client.close)
            reader = SqsReader(client, self._checked(found, function), host.clock)
            undo.pop_all()
        return reader

    @property
    def _name(self) -> str:
        return re.split("[:/]", self.options.queue)[-1]

    def _checked(self, found: dict[str, str], function: FunctionSpec) -> Queue:
        timeout_s = function.timeout_s
        visibility_s = int(found["VisibilityTimeout"])
        if visibility_s < timeout_s:
            raise Refused(
                f"queue {self._name!r}: its visibility timeout, {visibility_s} s, "
                f"is below the function's timeout, {timeout_s:g} s"
            )
        window_s = self.options.batching_window
        if window_s and window_s + timeout_s > visibility_s:
            visibility_s = window_s + math.ceil(timeout_s) + EXTRA_VISIBILITY_S
        arn = parse_arn(found["QueueArn"])
        region = arn.region if arn is not None else function.region
        return Queue(
            self._name, found["QueueUrl"], found["QueueArn"], region, visibility_s, windowed=window_s > 0
        )

    def envelope(self, records: Sequence[Record]) -> bytes:
        return b'{"Records":[' + b",".join([record.event for record in records]) + b"]}"

    def failure_details(self, records: Sequence[Record]) -> JsonObject:
        """Ours, for AWS has no failure records of queues: which messages, and when they were sent."""
        sent = [record.arrived_at for record in records]
        return {
            "SQSBatchInfo": {
                "queueArn": records[0].partition,
                "batchSize": len(records),
                "messageIds": [record.item_id for record in records],
                "sentTimestampOfFirstMessage": iso_ms(min(sent)),
                "sentTimestampOfLastMessage": iso_ms(max(sent)),
            }
        }


def _find(queue: str, name: str, host: Host) -> tuple[Any, dict[str, str]]:
    """A client, and the queue's URL, ARN and visibility timeout."""
    arn = parse_arn(queue)
    region = arn.region if arn is not None else host.region
    config = client_config(THREADS)
    with source_errors(name), ExitStack() as undo:
        client = new_client("sqs", host.endpoint_url, region, config)
        undo.callback(client.close)
        found = _attributes(client, queue, arn)
        int(found["VisibilityTimeout"])
        undo.pop_all()
    return client, found


def _attributes(client: Any, queue: str, arn: Arn | None) -> dict[str, str]:
    if queue.startswith(("http://", "https://")):
        url = queue
    elif arn is not None:
        url = client.get_queue_url(QueueName=arn.resource, QueueOwnerAWSAccountId=arn.account)["QueueUrl"]
    else:
        url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    wanted = ["QueueArn", "VisibilityTimeout"]
    return {**client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)["Attributes"], "QueueUrl": url}
