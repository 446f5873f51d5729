"""A standard SNS topic as a destination: the record is the message, without a subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from millstream.aws.arn import is_arn_of
from millstream.aws.target import AwsTarget
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord
from millstream.contract.records import DestinationReceipt

LIMIT_BYTES = 256 * 1024
"""Source: AWS, "Amazon SNS endpoints and quotas", message size."""


def _standard(target: str) -> str:
    if target.endswith(".fifo"):
        raise ValueError("a standard topic, not a FIFO topic")
    return target


class SnsDestinationOptions(Options):
    """`target` is a topic's ARN."""

    target: Annotated[str, AfterValidator(_standard)] = Field(pattern=r"^arn:[^:]+:sns:")


class SnsDestination:
    """Implements Destination."""

    limit_bytes = LIMIT_BYTES

    def __init__(self, options: SnsDestinationOptions) -> None:
        self.name = options.target
        self._aws: AwsTarget

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("sns", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(SnsDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._aws = AwsTarget("sns", self.name, host)
        await self._aws.find(self._aws.client.get_topic_attributes, TopicArn=self.name)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        message = record.body.decode()
        await self._aws.call(self._aws.client.publish, TopicArn=self.name, Message=message)
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()
