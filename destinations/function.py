"""Another function as a destination: it is invoked with the record as its event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Self, assert_never

from pydantic import AfterValidator

from millstream.aws.arn import is_arn_of
from millstream.contract.backoff import Backoff
from millstream.contract.errors import DestinationUnavailable, DocumentTooLarge
from millstream.contract.functions import MAX_PAYLOAD_BYTES, FunctionFailed, Success, Throttled, TooLarge
from millstream.contract.options import Options
from millstream.contract.ports import Host, InvocationRecord, Payload
from millstream.contract.records import DestinationReceipt
from millstream.destinations.targets import parse_target

SCHEME = "function:"
ATTEMPTS = 5
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 4.0
"""Tries of a throttled invocation, and the waits between them: well below a visibility timeout."""

_TARGET = re.compile(
    r"(function:|arn:[a-z-]+:lambda:[a-z0-9-]*:\d{12}:function:)[A-Za-z0-9_-]{1,64}(:\$LATEST)?"
)


def _function(target: str) -> str:
    if not _TARGET.fullmatch(target):
        raise ValueError("a function by its name (function:on_failed) or its ARN")
    return target


class FunctionDestinationOptions(Options):
    """`target` is `function:NAME`, or the function's ARN."""

    target: Annotated[str, AfterValidator(_function)]


class FunctionDestination:
    """Implements Destination."""

    payload = Payload.EVENT

    def __init__(self, options: FunctionDestinationOptions) -> None:
        self.limit_bytes: int | None = MAX_PAYLOAD_BYTES
        self.name = options.target
        self._function = options.target.removesuffix(":$LATEST").rpartition(":")[2]
        self._host: Host | None = None

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(SCHEME) or is_arn_of("lambda", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_target(FunctionDestinationOptions, options))

    async def open(self, host: Host) -> None:
        """Makes ready; whether the function is there is known with the first record alone."""
        self._host = host

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        if self._host is None:
            raise DestinationUnavailable(f"{self.name}: closed")
        clock, invoker = self._host.clock, self._host.invoker
        backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S)
        for attempt in range(1, ATTEMPTS + 1):
            outcome = await invoker.invoke(self._function, record.body)
            match outcome:
                case Success():
                    return DestinationReceipt(self.name)
                case FunctionFailed(error_type=error_type):
                    raise DestinationUnavailable(f"{self.name}: {error_type}")
                case TooLarge(limit_bytes=limit_bytes):
                    self.limit_bytes = limit_bytes
                    raise DocumentTooLarge(f"{self.name}: {outcome.message}")
                case Throttled(retry_after_s=retry_after_s):
                    if attempt < ATTEMPTS:
                        wait_s = max(backoff.wait_s(clock.monotonic()), retry_after_s)
                        await clock.sleep(min(wait_s, MAX_WAIT_S))
                case _:
                    assert_never(outcome)
        raise DestinationUnavailable(f"{self.name}: throttled {ATTEMPTS} times")

    async def aclose(self) -> None:
        self._host = None
