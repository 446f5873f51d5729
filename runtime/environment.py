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

from msgspec.structs import replace

from millstream.contract.functions import FunctionFailed, FunctionSpec, Outcome, Throttled
from millstream.runtime.alarm import Alarm
from millstream.runtime.extensions import Extensions
from millstream.runtime.failures import (
    EXIT_ERROR,
    NotLoaded,
    Told,
    exited,
    extension_failed,
    not_loaded,
    timed_out,
    was_killed,
)
from millstream.runtime.link import Answer, Broken, Invocation, Link, Links, trace_header
from millstream.runtime.output import Output
from millstream.runtime.platform import SUCCESS, Ending, PlatformLog, Report
from millstream.runtime.processes import NotStarted, Processes

INIT_S = 10.0
"""Longest init phase ahead of an invocation."""

PREPARE_S = 130.0
"""Longest init phase of provisioned concurrency and SnapStart, unless the function's timeout is longer."""

UNAVAILABLE = "ServiceException"
UNAVAILABLE_RETRY_S = 1.0


class Environment:
    """Implements ExecutionEnvironment, for any runtime and any driver."""

    def __init__(
        self,
        function: FunctionSpec,
        processes: Processes,
        links: Links,
        output: Output,
        platform: PlatformLog,
        extensions: Extensions,
    ) -> None:
        self._function = function
        self._processes = processes
        self._links = links
        self._output = output
        self._platform = platform
        self._extensions = extensions
        extensions.broken = self._extension_failed
        self._link: Link | None = None
        self._created_at = time.monotonic()
        self._initialised = False  # the first init phase is over, whatever came of it
        self._init_s: float | None = None  # of it, reported once
        self._restore_s: float | None = None  # of a restore ahead of this invocation, reported once
        self._broken = False  # the next invocation needs a new runtime
        self._runtime_ready = False  # in this init phase
        self._again_at: float | None = None  # an init phase within an invocation began, and is not over
        self._frozen = False
        self._running = False  # an invocation
        self._killed = False
        self._timed_out = False
        self._alarm = Alarm(self._time_out)

    @property
    def alive(self) -> bool:
        """False once it is killed, and if its runtime ends or says anything while it has no work."""
        if self._killed or not self._processes.there:
            return False
        if self._broken or not self._initialised:
            return True
        if self._extensions.failure is not None:
            return False
        return self._link is not None and self._link.quiet

    @property
    def memory_kb(self) -> int:
        return 0 if self._link is None else self._link.memory_kb()

    @property
    def link(self) -> Link | None:
        """To the runtime that is there now."""
        return self._link

    @property
    def busy(self) -> bool:
        return self._extensions.busy

    async def idle(self) -> None:
        await self._extensions.idle()

    async def open(self) -> None:
        """Start the first runtime, whose init phase then runs by itself. Raises NotStarted."""
        self._platform.init_start("init")
        await self._extensions.start()
        if not self._extensions.external:
            await self._start()  # else it waits for them, within the init phase

    async def prepare(self) -> FunctionFailed | None:
        try:
            limit_s = max(PREPARE_S, self._function.timeout_s)
            return None if self._initialised else await self._first_init(limit_s)
        except asyncio.CancelledError:
            self._kill()
            raise

    async def invoke(self, event: bytes, request_id: str) -> Outcome:
        self._running = True
        try:
            return await self._invoke(event, request_id)
        except asyncio.CancelledError:
            self._kill()  # nobody knows what its runtime does
            raise
        finally:
            self._running = False

    async def _invoke(self, event: bytes, request_id: str) -> Outcome:
        if self._asleep and (failed := await self._wake(request_id)) is not None:
            return failed
        self._output.begin()
        self._platform.start(request_id)
        started_at = time.monotonic()
        timeout_s = self._function.timeout_s
        deadline_ms = int((time.time() + timeout_s) * 1000)
        invocation = Invocation(request_id, event, deadline_ms, trace_header())
        try:
            outcome, ending = await self._attempt(invocation)
        except NotStarted:  # the event has reached nobody
            self._kill()
            return Throttled(UNAVAILABLE, UNAVAILABLE_RETRY_S)
        if self._again_at is not None:
            began_at, self._again_at = self._again_at, None
            self._init_over("invoke", time.monotonic() - began_at, ending)
        self._finish(invocation, started_at, outcome, ending)
        return outcome

    @property
    def _init_limit_s(self) -> float:
        """Longest init phase that no invocation waits for."""
        return INIT_S

    @property
    def _asleep(self) -> bool:
        """True if it must be woken before an invocation can start."""
        return self._frozen or self.busy or not self._initialised

    async def _wake(self, request_id: str) -> FunctionFailed | None:
        """Thaw it, and wait for what is still to be done before an invocation can start; why it cannot."""
        if self._frozen:
            self._frozen = False
            self._processes.go_on()
        await self._extensions.idle()
        if not self._initialised:
            if self._link is None:
                self._created_at = time.monotonic()  # only now its runtime starts
            failed = await self._first_init(self._created_at + self._init_limit_s - time.monotonic())
            if failed is not None:
                await self._extensions.idle()
        return None

    async def _attempt(self, invocation: Invocation) -> tuple[Answer, Ending]:
        """What came of an invocation, within the function's timeout. Raises NotStarted."""
        request_id, timeout_s = invocation.request_id, self._function.timeout_s
        try:
            if self._link is not None and self._link.waiting and not self._broken:
                return await self._run_warm(self._link, invocation), SUCCESS
            async with asyncio.timeout(timeout_s):
                return await self._run(invocation), SUCCESS
        except TimeoutError:
            return timed_out(timeout_s, request_id)
        except Broken as broken:
            return self._ended(broken, request_id)
        except NotLoaded as failed:
            return not_loaded(failed.document, request_id)

    def _finish(self, invocation: Invocation, started_at: float, outcome: Answer, ending: Ending) -> None:
        """Tell the log of an invocation that is answered; at once, or when extensions are done with it."""
        killed = was_killed(outcome)
        peak_kb = 0 if self._link is None else self._link.peak_kb()
        if killed:
            peak_kb = self._function.memory_size_mb * 1024
        self._output.end()
        duration_s = time.monotonic() - started_at
        report = Report(
            invocation.request_id, duration_s, peak_kb, ending, self._init_s, len(outcome.payload),
            invocation.deadline_ms / 1000 - self._function.timeout_s,
            0.0 if self._link is None else self._link.response_s, self._restore_s,
        )  # fmt: skip
        self._init_s = self._restore_s = None
        self._platform.runtime_done(report)
        if not ending.good:
            self._break(ending, killed=killed)
        elif not self._extensions.settled:
            left_s = self._function.timeout_s - duration_s
            self._extensions.hold(left_s, lambda end: self._let_go(report, started_at, end))
            return
        self._platform.report(report)

    def _let_go(self, report: Report, started_at: float, ending: Ending) -> None:
        """The extensions are done with an invocation that was answered long ago, or will never be."""
        duration_s = time.monotonic() - started_at
        self._platform.report(replace(report, duration_s=duration_s, ending=ending))
        if not ending.good:
            self._break(ending)
        self._freeze_again()

    async def _run_warm(self, link: Link, invocation: Invocation) -> Answer:
        """With a runtime that waits for it. Raises Broken, TimeoutError."""
        self._timed_out = False
        self._alarm.set(self._function.timeout_s)
        try:
            self._extensions.begin(invocation)
            return await link.run(invocation)
        except Broken as broken:
            if self._timed_out:
                raise TimeoutError from broken
            raise
        finally:
            self._alarm.clear()

    def _time_out(self) -> None:
        """Whoever waits for the runtime hears of it."""
        self._timed_out = True
        if self._link is not None:
            self._link.close()

    async def _run(self, invocation: Invocation) -> Answer:
        """With the runtime that is there, or with a new one. Raises Broken, NotStarted, NotLoaded."""
        if self._link is not None and not self._link.waiting:
            try:
                await self._link.settled()
            except Broken:  # it ended by itself, behind its last answer
                self._break(EXIT_ERROR)
        if self._broken:
            await self._again()
        if self._link is None:
            raise Broken
        self._extensions.begin(invocation)
        return await self._link.run(invocation)

    async def _again(self) -> None:
        """A new runtime in what the last one left."""
        self._again_at = time.monotonic()
        self._runtime_ready = False
        self._platform.init_start("invoke")
        await self._extensions.idle()
        await self._processes.ended()
        self._broken = False
        await self._extensions.start()
        document = await self._init("invoke")
        if document is not None:
            raise NotLoaded(document)
        began_at, self._again_at = self._again_at, None
        self._init_over("invoke", time.monotonic() - began_at, SUCCESS)

    async def _start(self) -> Link:
        self._link = self._links.link()
        await self._link.start()
        return self._link

    async def _init(self, phase: str) -> bytes | None:
        """Wait until the handler is loaded, and all extensions are ready; the document that says why not.

        Raises Broken, NotStarted.
        """
        self._runtime_ready = False
        link = self._link
        if link is None:
            await self._extensions.registered()
            link = await self._start()
        document = await link.ready()
        self._runtime_ready = True
        self._platform.init_runtime_done(phase, SUCCESS if document is None else not_loaded(document, "")[1])
        if document is None:
            await self._extensions.ready()
        return document

    async def _first_init(self, limit_s: float) -> FunctionFailed | None:
        """Wait for the handler to be loaded; why it is not. The time since creation counts."""
        self._initialised = True
        failed: FunctionFailed | None = None
        ending = SUCCESS
        try:
            async with asyncio.timeout(max(limit_s, 0.1)):
                document = await self._init("init")
            if document is not None:
                failed, ending = not_loaded(document, "")
        except TimeoutError:
            failed, ending = timed_out(limit_s, "")
        except (Broken, NotStarted) as broken:
            failed, ending = self._ended(broken, "")
        init_s = time.monotonic() - self._created_at
        if failed is None:
            self._init_s = init_s
        else:
            self._output.end()
        self._init_over("init", init_s, ending)
        if failed is not None:
            self._break(ending)
        return failed

    def _init_over(self, phase: str, init_s: float, ending: Ending) -> None:
        """Tell the log how an init phase ended."""
        if not self._runtime_ready:
            self._platform.init_runtime_done(phase, ending)
        self._extensions.report()
        self._platform.init_report(phase, init_s, ending)

    def _ended(self, broken: Broken | NotStarted, request_id: str) -> Told:
        """What a caller and the log are told of a runtime that is gone."""
        if self._extensions.failure is not None:
            return extension_failed(*self._extensions.failure, request_id)
        return exited(broken, request_id, out_of_memory=self._processes.out_of_memory())

    def _break(self, ending: Ending, *, killed: bool = False) -> None:
        """End the runtime and all that it started; /tmp is kept. `killed`: for its memory."""
        if self._broken or self._killed:
            return
        self._broken = True
        link, self._link = self._link, None
        if link is not None:
            link.close()
        reason = "TIMEOUT" if killed or ending.status == "timeout" else "FAILURE"
        self._extensions.shut_down(reason, None if link is None else link.process, self._shut_down)

    def _shut_down(self) -> None:
        """The extensions had their time."""
        if not self._killed:
            self._processes.end()
            self._freeze_again()

    def _extension_failed(self) -> None:
        """Whoever waits for the runtime hears of it."""
        if self._link is not None:
            self._link.close()

    def freeze(self) -> None:
        if not self._frozen and not self._killed:
            self._frozen = True
            self._freeze_again()

    def _freeze_again(self) -> None:
        if self._frozen and not self.busy and not self._killed:
            self._extensions.freeze()
            self._processes.stop()

    async def aclose(self) -> None:
        try:
            if not self._killed:
                await self._retire()
        finally:
            self._kill()
        await self._processes.gone()

    async def _retire(self) -> None:
        """Give the extensions, and the runtime with them, time to end."""
        if self._frozen:
            self._frozen = False
            self._processes.go_on()
        if not self._running:
            await self._extensions.idle()  # what they do for the last invocation comes first
        link = self._link
        if not self._broken and self._initialised and not self._running:
            self._extensions.shut_down("SPINDOWN", None if link is None else link.process, lambda: None)
        if not self._running:
            await self._extensions.idle()

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._processes.kill()
            self._extensions.close()
            self._output.end()
            self._output.close()
            self._alarm.close()
            if self._link is not None:
                self._link.close()
