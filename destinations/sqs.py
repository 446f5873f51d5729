"""A standard SQS queue as a destination: the record is the message's body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from millstream.aws.arn import is_arn_of, parse_arn
from millstream.aws.target import AwsTarget
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord
from millstream.contract.records import DestinationReceipt

LIMIT_BYTES = 1024 * 1024
"""Source: AWS, "Amazon SQS message quotas", message size."""


def _standard(target: str) -> str:
    if target.endswith(".fifo"):
        raise ValueError("a standard queue, not a FIFO queue")
    return target


class SqsDestinationOptions(Options):
    """`target` is a queue's ARN."""

    target: Annotated[str, AfterValidator(_standard)] = Field(pattern=r"^arn:[^:]+:sqs:")


class SqsDestination:
    """Implements Destination."""

    limit_bytes = LIMIT_BYTES

    def __init__(self, options: SqsDestinationOptions) -> None:
        self.name = options.target
        self._aws: AwsTarget
        self._url = ""

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("sqs", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(SqsDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._aws = AwsTarget("sqs", self.name, host)
        arn = parse_arn(self.name)
        assert arn is not None
        wanted = {"QueueName": arn.resource, "QueueOwnerAWSAccountId": arn.account}
        self._url = (await self._aws.find(self._aws.client.get_queue_url, **wanted))["QueueUrl"]

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        body = record.body.decode()
        await self._aws.call(self._aws.client.send_message, QueueUrl=self._url, MessageBody=body)
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()
