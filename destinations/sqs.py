"""A standard SQS queue as a destination: the record is the message's body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from botocore.exceptions import ClientError
from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of, parse_arn
from millstream.aws.source_errors import code_of
from millstream.aws.target import AwsTarget, CallRefused
from millstream.contract.errors import DocumentTooLarge
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import check_size, is_queue_url, limit_in, message_of, parse_target

LIMIT_BYTES = 1024 * 1024
"""The limit of a queue that does not tell its own. Source: AWS, "Amazon SQS message quotas", message size."""

_SIZE = "MaximumMessageSize"
_TOO_LONG = frozenset({"AWS.SimpleQueueService.BatchRequestTooLong", "BatchRequestTooLong"})

DENIED = frozenset({"AccessDenied", "AccessDeniedException"})

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
    """Implements Destination. A message's body is all that it sends, and all that counts."""

    payload = Payload.NONE

    def __init__(self, options: SqsDestinationOptions) -> None:
        self.limit_bytes: int | None = LIMIT_BYTES
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
        self._url, self.limit_bytes = await self._aws.open(host, self._find)

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        body = message_of(record.body)
        size_bytes = len(body.encode())
        if self.limit_bytes is not None:
            check_size(self.name, size_bytes, self.limit_bytes)
        try:
            await self._aws.call(lambda client: client.send_message(QueueUrl=self._url, MessageBody=body))
        except CallRefused as refused:
            if refused.code not in _TOO_LONG and "shorter than" not in refused.words:
                raise
            self.limit_bytes = limit_in(refused.words) or await self._aws.call(self._limit)
            limit = f"at most {self.limit_bytes} are taken"
            raise DocumentTooLarge(f"{self.name}: {size_bytes} bytes, and {limit}") from refused
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()

    def _find(self, client: Any) -> tuple[str, int]:
        """The queue's URL and limit."""
        if self._arn is not None:
            named = {"QueueName": self._arn.resource, "QueueOwnerAWSAccountId": self._arn.account}
            self._url = client.get_queue_url(**named)["QueueUrl"]
        else:
            self._url = self.name
        try:
            return self._url, self._limit(client)
        except ClientError as error:
            if code_of(error) not in DENIED:
                raise
            return self._url, LIMIT_BYTES  # one may send without the right to look

    def _limit(self, client: Any) -> int:
        found = client.get_queue_attributes(QueueUrl=self._url, AttributeNames=[_SIZE])
        return int(found.get("Attributes", {}).get(_SIZE, LIMIT_BYTES))
