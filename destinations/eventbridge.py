"""An EventBridge bus as a destination: the record is the event's detail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of
from millstream.aws.target import AwsTarget, CallRefused
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import check_size, message_of, parse_target

OTHER_FIELDS_BYTES = 4096
LIMIT_BYTES = 1024 * 1024 - OTHER_FIELDS_BYTES
"""An entry's limit, less what its other fields may take. Source: AWS, PutEvents, total entry size."""

SMALLER_BYTES = 256 * 1024 - OTHER_FIELDS_BYTES
"""The limit where, and until, a region or an endpoint has the former one."""

SOURCE = "lambda"
DETAIL_TYPE = "Lambda Function Invocation Result - "
"""As recorded; the guide says `aws.lambda`, which custom events may not carry."""

_TOO_LONG = frozenset({"413", "RequestEntityTooLarge"})

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

    payload = Payload.NONE

    def __init__(self, options: EventBridgeDestinationOptions) -> None:
        self.limit_bytes: int | None = LIMIT_BYTES
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
        detail = message_of(record.body)
        size_bytes = len(detail.encode())
        if self.limit_bytes is not None:
            check_size(self.name, size_bytes, self.limit_bytes)
        entry = {
            "EventBusName": self.name,
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE + ("Success" if record.succeeded else "Failure"),
            "Resources": [self.name, record.function_arn],
            "Detail": detail,
        }
        try:
            answer: dict[str, Any] = await self._aws.call(lambda client: client.put_events(Entries=[entry]))
        except CallRefused as refused:
            if "over the limit" not in refused.words and refused.code not in _TOO_LONG:
                raise
            if size_bytes > SMALLER_BYTES:
                self.limit_bytes = SMALLER_BYTES
            raise DocumentTooLarge(f"{self.name}: {size_bytes} bytes are too many") from refused
        if answer.get("FailedEntryCount"):
            entries = answer.get("Entries") or ()
            code = next((each["ErrorCode"] for each in entries if "ErrorCode" in each), "unknown")
            raise DestinationUnavailable(f"{self.name}: {code}")
        return DestinationReceipt(self.name)

    async def aclose(self) -> None:
        await self._aws.aclose()
