"""Runs functions: one environment an invocation, made on demand, reused, retired when idle."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import msgspec

from millstream.contract.clock import Clock
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import (
    MAX_PAYLOAD_BYTES,
    FunctionFailed,
    FunctionSpec,
    Outcome,
    Throttled,
)
from millstream.contract.ports import ExecutionEnvironment, Sandbox
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs

logger = logging.getLogger(__name__)

IDLE_S = 300.0
"""How long an environment waits for work before it is ended."""

UNAVAILABLE = "ServiceException"
UNAVAILABLE_RETRY_S = 1.0
LOOKS_PER_IDLE = 4
"""Looks for idle environments, per time that they may be idle."""


class RuntimePool:
    """Implements Invoker for the functions that it is given; used as an async context manager.

    The environment that was used last is used next, so that a quiet function keeps few.
    """

    def __init__(
        self,
        functions: Mapping[str, FunctionSpec],
        sandbox: Sandbox,
        ledger: ConcurrencyLedger,
        logs: FunctionLogs,
        clock: Clock,
        idle_s: float = IDLE_S,
    ) -> None:
        self._functions = functions
        self._sandbox = sandbox
        self._ledger = ledger
        self._logs = logs
        self._clock = clock
        self._idle_s = idle_s
        self._idle: dict[str, list[tuple[float, ExecutionEnvironment]]] = {name: [] for name in functions}
        self._group = asyncio.TaskGroup()
        self._retirement: asyncio.Task[None] | None = None
        self.retiring = False  # idle environments are being ended now

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._retirement = self._group.create_task(self._retire())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._retirement is not None:
            self._retirement.cancel()
        await self._group.__aexit__(None, None, None)
        for waiting in self._idle.values():
            while waiting:
                await waiting.pop()[1].aclose()
        self._logs.flush()

    def idle(self, function: str) -> int:
        """Environments of a function that wait for work."""
        return len(self._idle[function])

    async def invoke(self, function: str, event: bytes) -> Outcome:
        spec = self._functions.get(function)
        request_id = str(uuid.uuid4())
        if spec is None:
            return _refused("ResourceNotFoundException", f"Function not found: {function}", request_id)
        if len(event) > MAX_PAYLOAD_BYTES:
            limit = f"Request must be smaller than {MAX_PAYLOAD_BYTES} bytes for the InvokeFunction operation"
            return _refused("RequestTooLargeException", limit, request_id)
        throttled = self._ledger.take(spec)
        if throttled is not None:
            return throttled
        try:
            return await self._invoke(spec, event, request_id)
        finally:
            self._ledger.give(spec)

    async def _invoke(self, spec: FunctionSpec, event: bytes, request_id: str) -> Outcome:
        waiting = self._idle[spec.name]
        while waiting and not waiting[-1][1].alive:  # it ended while it had no work
            await waiting.pop()[1].aclose()
        try:
            environment = waiting.pop()[1] if waiting else await self._create(spec)
        except SandboxUnavailable as unavailable:
            logger.error(  # noqa: TRY400  an answer of the host, not a fault of ours
                "environment not made", extra={"function": spec.name, "why": str(unavailable)}
            )
            return Throttled(UNAVAILABLE, UNAVAILABLE_RETRY_S)
        outcome = await environment.invoke(event, request_id)
        if environment.alive:
            waiting.append((self._clock.monotonic(), environment))
        else:
            await environment.aclose()  # its memory is free before another takes its place
        return outcome

    async def _create(self, spec: FunctionSpec) -> ExecutionEnvironment:
        return await self._sandbox.create(spec, self._logs.of(spec.name))

    async def _retire(self) -> None:
        while True:
            await self._clock.sleep(self._idle_s / LOOKS_PER_IDLE)
            before = self._clock.monotonic() - self._idle_s
            self.retiring = True
            for waiting in self._idle.values():
                while waiting and waiting[0][0] <= before:
                    await waiting.pop(0)[1].aclose()
            self.retiring = False


def _refused(kind: str, message: str, request_id: str) -> FunctionFailed:
    payload = msgspec.json.encode({"errorType": kind, "errorMessage": message})
    return FunctionFailed(kind, message, payload, request_id)
