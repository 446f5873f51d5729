"""An EventBridge bus as a destination: the record is the event's detail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of
from millstream.aws.target import AwsTarget
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import parse_target

LIMIT_BYTES = 1024 * 1024 - 4096
"""An entry's limit, less what its other fields may take. Source: AWS, PutEvents, total entry size."""

SOURCE = "lambda"
DETAIL_TYPE = "Lambda Function Invocation Result - "
"""As recorded; the guide says `aws.lambda`, which custom events may not carry."""

_ARN = re.compile(r"arn:[a-z-]+:events:[a-z0-9-]+:\d{12}:event-bus/([A-Za-z0-9._/-]{1,256})")


def _bus(target: str) -> str:
    if not _ARN.fullmatch(target):
        raise ValueError("an event bus's ARN (arn:aws:events:us-east-1:123456789012:event-bus/default)")
    return target


class EventBridgeDestinationOptions(Options):
    """`target` is an event bus's ARN."""

    target: Annotated[str, AfterValidator(_bus)]


class EventBridgeDestination:
    """Implements Destination."""

    limit_bytes = LIMIT_BYTES
    payload = Payload.NONE

    def __init__(self, options: EventBridgeDestinationOptions) -> None:
        self.name = options.target
        self._aws = AwsTarget("events", self.name, self.name.split(":")[3])

    @classmethod
    def claims(cls, target: str) -> bool:
        return is_arn_of("events", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(EventBridgeDestinationOptions, options))

    async def open(self, host: Host) -> None:
        bus = self.name.partition("event-bus/")[2]
        await self._aws.open(host, lambda client: client.describe_event_bus(Name=bus))

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        entry = {
            "EventBusName": self.name,
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE + ("Success" if record.succeeded else "Failure"),
            "Resources": [self.name, record.function_arn],
            "Detail": record.body.decode(),
        }
        answer: dict[str, Any] = await self._aws.call(lambda client: client.put_events(Entries=[entry]))
        if answer.get("FailedEntryCount"):
            code = next((each["ErrorCode"] for each in answer["Entries"] if "ErrorCode" in each), "unknown")
            raise DestinationUnavailable(f"{self.name}: {code}")
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()
