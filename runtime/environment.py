"""One execution environment, seen from the daemon: its life cycle.

    created ── init ──► idle ── invoke ──► busy ──► idle
       │                                     │
       └── failed ──► broken ◄── timeout, crash ──┘      broken ── init within the invoke ──► busy
    any ── cancelled, its sandbox gone ──► dead

A broken one keeps its sandbox and /tmp; its next invocation starts a new runtime, whose init then
counts as part of the invocation. Source: AWS, "Understanding the Lambda execution environment lifecycle".
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from millstream.contract.functions import FunctionFailed, FunctionSpec, Outcome, Throttled
from millstream.runtime.link import Broken, Invocation, Link, Links, failure
from millstream.runtime.output import Output
from millstream.runtime.platform import SUCCESS, Ending, PlatformLog, Report
from millstream.runtime.processes import NotStarted, Processes

INIT_S = 10.0
"""Longest init phase ahead of an invocation."""

PREPARE_S = 130.0
"""Longest init phase of provisioned concurrency, unless the function's timeout is longer."""

UNAVAILABLE = "ServiceException"
UNAVAILABLE_RETRY_S = 1.0

EXITED = "Runtime exited without providing a reason"
KILLED = "Runtime exited with error: signal: killed"
EXIT_STATUS = "Runtime exited with error: exit status {}"
EXIT_ERROR = Ending("error", "Runtime.ExitError")
TIMEOUT = Ending("timeout")


class _NotLoaded(Exception):
    """A new runtime could not load the handler."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.document = document


class Environment:
    """Implements ExecutionEnvironment, for any runtime and any driver."""

    def __init__(
        self,
        function: FunctionSpec,
        processes: Processes,
        links: Links,
        output: Output,
        platform: PlatformLog,
    ) -> None:
        self._function = function
        self._processes = processes
        self._links = links
        self._output = output
        self._platform = platform
        self._link: Link | None = None
        self._created_at = time.monotonic()
        self._initialised = False  # the first init phase is over, whatever came of it
        self._init_s: float | None = None  # of it, reported once
        self._broken = False  # the next invocation needs a new runtime
        self._frozen = False
        self._killed = False

    @property
    def alive(self) -> bool:
        """False once it is killed, and if its runtime ends or says anything while it has no work."""
        if self._killed or not self._processes.there:
            return False
        return self._broken or not self._initialised or (self._link is not None and self._link.quiet)

    @property
    def memory_kb(self) -> int:
        return 0 if self._link is None else self._link.memory_kb()

    @property
    def link(self) -> Link | None:
        """To the runtime that is there now."""
        return self._link

    async def open(self) -> None:
        """Start the first runtime, whose init phase then runs by itself. Raises NotStarted."""
        self._platform.init_start("init")
        await self._links.open()
        await self._start()

    async def prepare(self) -> FunctionFailed | None:
        try:
            limit_s = max(PREPARE_S, self._function.timeout_s)
            return None if self._initialised else await self._first_init(limit_s)
        except asyncio.CancelledError:
            self._kill()
            raise

    async def invoke(self, event: bytes, request_id: str) -> Outcome:
        try:
            return await self._invoke(event, request_id)
        except asyncio.CancelledError:
            self._kill()  # nobody knows what its runtime does
            raise

    async def _invoke(self, event: bytes, request_id: str) -> Outcome:
        if self._frozen:
            self._frozen = False
            self._processes.go_on()
        if not self._initialised:
            await self._first_init(self._created_at + INIT_S - time.monotonic())
        self._output.begin()
        self._platform.start(request_id)
        started_at = time.monotonic()
        timeout_s = self._function.timeout_s
        invocation = Invocation(request_id, event, int((time.time() + timeout_s) * 1000))
        ending = SUCCESS
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await self._run(invocation)
        except TimeoutError:
            outcome = _failed("Sandbox.Timedout", request_id, f"Task timed out after {timeout_s:.2f} seconds")
            ending = TIMEOUT
        except Broken as broken:
            outcome, ending = self._ended(broken, request_id)
        except _NotLoaded as why:
            outcome = failure(why.document, request_id)
            ending = Ending("error", _one_line(outcome.error_type))
        except NotStarted:  # the event has reached nobody
            self._kill()
            return Throttled(UNAVAILABLE, UNAVAILABLE_RETRY_S)
        peak_kb = 0 if self._link is None else self._link.peak_kb()
        if isinstance(outcome, FunctionFailed) and outcome.message.endswith(KILLED):
            peak_kb = self._function.memory_size_mb * 1024
        self._output.end()
        report = Report(request_id, time.monotonic() - started_at, peak_kb, ending, self._init_s)
        self._init_s = None
        if not ending.good:
            self._break()
        self._platform.report(report)
        return outcome

    async def _run(self, invocation: Invocation) -> Outcome:
        """With the runtime that is there, or with a new one. Raises Broken, NotStarted, _NotLoaded."""
        if self._link is not None and not self._link.waiting:
            try:
                await self._link.settled()
            except Broken:  # it ended by itself, behind its last answer
                self._break()
        if self._broken:
            await self._again()
        if self._link is None:
            raise Broken
        return await self._link.run(invocation)

    async def _again(self) -> None:
        """A new runtime in what the last one left."""
        started_at = time.monotonic()
        self._platform.init_start("invoke")
        await self._processes.ended()
        await self._start()
        self._broken = False
        document = None if self._link is None else await self._link.ready()
        if document is not None:
            ending = Ending("error", _one_line(failure(document, "").error_type))
            self._platform.init_report("invoke", time.monotonic() - started_at, ending)
            raise _NotLoaded(document)

    async def _start(self) -> None:
        self._link = self._links.link()
        await self._link.start()

    async def _first_init(self, limit_s: float) -> FunctionFailed | None:
        """Wait for the handler to be loaded; why it is not. The time since creation counts."""
        self._initialised = True
        failed: FunctionFailed | None = None
        ending = SUCCESS
        try:
            async with asyncio.timeout(max(limit_s, 0.1)):
                document = None if self._link is None else await self._link.ready()
            if document is not None:
                failed = failure(document, "")
                ending = Ending("error", _one_line(failed.error_type))
        except TimeoutError:
            failed = _failed("Sandbox.Timedout", "", f"Task timed out after {limit_s:.2f} seconds")
            ending = TIMEOUT
        except (Broken, NotStarted) as broken:
            failed, ending = self._ended(broken, "")
        init_s = time.monotonic() - self._created_at
        if failed is None:
            self._init_s = init_s
        else:
            self._break()
            self._output.end()
        self._platform.init_report("init", init_s, ending)
        return failed

    def _ended(self, broken: Broken | NotStarted, request_id: str) -> tuple[FunctionFailed, Ending]:
        """What a caller and the log are told of a runtime that is gone."""
        why = EXITED
        if self._processes.out_of_memory():
            why = KILLED
        elif isinstance(broken, Broken) and broken.status is not None and broken.status > 0:
            why = EXIT_STATUS.format(broken.status)
        return _failed("Runtime.ExitError", request_id, why), EXIT_ERROR

    def _break(self) -> None:
        """End the runtime and all that it started; /tmp is kept."""
        if self._link is not None and not self._killed:
            self._link.close()
            self._link = None
            self._broken = True
            self._processes.end()

    def freeze(self) -> None:
        if not self._frozen and not self._killed:
            self._frozen = True
            self._processes.stop()

    async def aclose(self) -> None:
        self._kill()
        await self._processes.gone()

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._links.close()
            self._processes.kill()
            self._output.end()
            self._output.close()
            if self._link is not None:
                self._link.close()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _failed(kind: str, request_id: str, why: str) -> FunctionFailed:
    message = f"RequestId: {request_id} Error: {why}"
    payload = msgspec.json.encode({"errorType": kind, "errorMessage": message})
    return FunctionFailed(kind, message, payload, request_id)
