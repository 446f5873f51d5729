"""A standard SNS topic as a destination: the record is the message, without a subject."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of
from millstream.aws.target import AwsTarget, CallRefused
from millstream.contract.errors import DocumentTooLarge
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import check_size, limit_in, message_of, parse_target

LIMIT_BYTES = 256 * 1024
"""Source: AWS, "Amazon SNS endpoints and quotas", message size."""

_ARN = re.compile(r"arn:[a-z-]+:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")


def _standard(target: str) -> str:
    if target.endswith(".fifo"):
        raise ValueError("a standard topic, as AWS takes no FIFO topic here")
    if not _ARN.fullmatch(target):
        raise ValueError("a standard topic's ARN (arn:aws:sns:us-east-1:123456789012:failed)")
    return target


class SnsDestinationOptions(Options):
    """`target` is a topic's ARN."""

    target: Annotated[str, AfterValidator(_standard)]


class SnsDestination:
    """Implements Destination. A message's text is all that it sends, and all that counts."""

    payload = Payload.NONE

    def __init__(self, options: SnsDestinationOptions) -> None:
        self.limit_bytes: int | None = LIMIT_BYTES
        self.name = options.target
        self._aws = AwsTarget("sns", self.name, self.name.split(":")[3])

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("sns", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(SnsDestinationOptions, options))

    async def open(self, host: Host) -> None:
        await self._aws.open(host, lambda client: client.get_topic_attributes(TopicArn=self.name))

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        message = message_of(record.body)
        size_bytes = len(message.encode())
        if self.limit_bytes is not None:
            check_size(self.name, size_bytes, self.limit_bytes)
        try:
            await self._aws.call(lambda client: client.publish(TopicArn=self.name, Message=message))
        except CallRefused as refused:
            if "too long" not in refused.words.lower():
                raise
            self.limit_bytes = limit_in(refused.words) or self.limit_bytes
            raise DocumentTooLarge(f"{self.name}: {size_bytes} bytes are too many") from refused
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()
