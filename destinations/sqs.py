"""A standard SQS queue as a destination: the record is the message's body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of, parse_arn
from millstream.aws.target import AwsTarget
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import is_queue_url, parse_target

LIMIT_BYTES = 1024 * 1024
"""Source: AWS, "Amazon SQS message quotas", message size."""

_ARN = re.compile(r"arn:[a-z-]+:sqs:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,80}")
_REGION = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.")


def _standard(target: str) -> str:
    if target.endswith(".fifo"):
        raise ValueError("a standard queue, as AWS takes no FIFO queue here")
    if not _ARN.fullmatch(target) and not is_queue_url(target):
        raise ValueError("a standard queue's ARN or URL (arn:aws:sqs:us-east-1:123456789012:failed)")
    return target


class SqsDestinationOptions(Options):
    """`target` is a queue's ARN or URL."""

    target: Annotated[str, AfterValidator(_standard)]


class SqsDestination:
    """Implements Destination."""

    limit_bytes = LIMIT_BYTES
    payload = Payload.NONE

    def __init__(self, options: SqsDestinationOptions) -> None:
        self.name = options.target
        self._arn = parse_arn(self.name)
        at = _REGION.match(self.name)
        region = self._arn.region if self._arn is not None else at[1] if at is not None else ""
        self._aws = AwsTarget("sqs", self.name, region)
        self._url = ""

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("sqs", target) or is_queue_url(target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(SqsDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._url = await self._aws.open(host, self._find)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        body = record.body.decode()
        await self._aws.call(lambda client: client.send_message(QueueUrl=self._url, MessageBody=body))
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()

    def _find(self, client: Any) -> str:
        if self._arn is None:
            client.get_queue_attributes(QueueUrl=self.name, AttributeNames=["QueueArn"])
            return self.name
        owner = self._arn.account
        url: str = client.get_queue_url(QueueName=self._arn.resource, QueueOwnerAWSAccountId=owner)[
            "QueueUrl"
        ]
        return url
