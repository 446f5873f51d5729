"""An EventBridge bus as a destination: the record is the event's detail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from millstream.aws.arn import is_arn_of
from millstream.aws.target import AwsTarget
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord
from millstream.contract.records import DestinationReceipt

LIMIT_BYTES = 1024 * 1024
"""Source: AWS, "Amazon EventBridge quotas", PutEvents entry size."""

SOURCE = "lambda"
DETAIL_TYPE = "Lambda Function Invocation Result - "
"""As recorded; the guide says `aws.lambda`, which custom events may not carry."""


class EventBridgeDestinationOptions(Options):
    """`target` is an event bus's ARN."""

    target: str = Field(
        pattern=r"^arn:[^:]+:events:[^:]*:[^:]*:event-bus/.+$", description="an event bus's ARN"
    )


class EventBridgeDestination:
    """Implements Destination."""

    limit_bytes = LIMIT_BYTES

    def __init__(self, options: EventBridgeDestinationOptions) -> None:
        self.name = options.target
        self._aws: AwsTarget

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("events", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(EventBridgeDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._aws = AwsTarget("events", self.name, host)
        await self._aws.find(self._aws.client.describe_event_bus, Name=self.name.rpartition("event-bus/")[2])

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        entry = {
            "EventBusName": self.name.rpartition("event-bus/")[2],
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE + ("Success" if record.succeeded else "Failure"),
            "Resources": [self.name, record.function_arn],
            "Detail": record.body.decode(),
        }
        answer: dict[str, Any] = await self._aws.call(self._aws.client.put_events, Entries=[entry])
        if answer.get("FailedEntryCount"):
            code = answer["Entries"][0].get("ErrorCode", "unknown")
            raise DestinationUnavailable(f"{self.name}: {code}")
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()
