"""Another function as a destination: it is invoked with the record as its event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, assert_never

from pydantic import Field

from millstream.aws.arn import is_arn_of
from millstream.contract.clock import Clock
from millstream.contract.errors import DestinationUnavailable
from millstream.contract.functions import MAX_PAYLOAD_BYTES, FunctionFailed, Success, Throttled
from millstream.contract.options import Options, parse_options
from millstream.contract.ports import Host, InvocationRecord, Invoker
from millstream.contract.records import DestinationReceipt

SCHEME = "function:"
ATTEMPTS = 5
"""Tries of a throttled invocation; its waits add up to well below a visibility timeout."""


class FunctionDestinationOptions(Options):
    """`target` is `function:NAME`, or the function's ARN."""

    target: str = Field(
        pattern=r"^(function:|arn:[^:]+:lambda:[^:]*:[^:]*:function:)[A-Za-z0-9_-]{1,64}(:\$LATEST)?$",
        description="function:NAME, or a function's ARN",
    )


class FunctionDestination:
    """Implements Destination."""

    limit_bytes = MAX_PAYLOAD_BYTES

    def __init__(self, options: FunctionDestinationOptions) -> None:
        self.name = options.target
        self._function = options.target.removesuffix(":$LATEST").rpartition(":")[2]
        self._invoker: Invoker
        self._clock: Clock

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.startswith(SCHEME) or is_arn_of("lambda", target)

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        return cls(parse_options(FunctionDestinationOptions, options))

    async def open(self, host: Host) -> None:
        self._invoker = host.invoker
        self._clock = host.clock

    async def deliver(self, record: InvocationRecord) -> DestinationReceipt:
        for _ in range(ATTEMPTS):
            outcome = await self._invoker.invoke(self._function, record.body)
            match outcome:
                case Success():
                    return DestinationReceipt(self.name)
                case FunctionFailed(error_type=error_type):
                    raise DestinationUnavailable(f"{self.name}: {error_type}")
                case Throttled(retry_after_s=retry_after_s):
                    await self._clock.sleep(retry_after_s)
                case _:
                    assert_never(outcome)
        raise DestinationUnavailable(f"{self.name}: throttled {ATTEMPTS} times")

    async def aclose(self) -> None:
        pass
