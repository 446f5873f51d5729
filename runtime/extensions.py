"""The extensions of one environment in its life cycle: started first, told of invocations and of the end.

An invocation is answered as soon as the runtime has answered; the environment is `busy` until every extension
has asked for its next event, and again while it is being shut down.
Source: AWS, "Using the Lambda Extensions API to create extensions", "Understanding the Lambda execution
environment lifecycle".
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence

from millstream.contract.functions import FunctionSpec
from millstream.runtime.api.extensions import VERSION, About, ExtensionsApi, invoke_event, shutdown_event
from millstream.runtime.api.link import Program
from millstream.runtime.api.roster import INVOKE, SHUTDOWN, Extension, Refusal, Roster, Stage
from millstream.runtime.api.server import Server
from millstream.runtime.api.telemetry import LOGS_VERSION, TelemetryApi
from millstream.runtime.api.telemetry import VERSION as TELEMETRY_VERSION
from millstream.runtime.link import Broken, Invocation
from millstream.runtime.output import Output
from millstream.runtime.platform import SUCCESS, Ending, PlatformLog
from millstream.runtime.processes import Process, Processes
from millstream.runtime.telemetry import Telemetry

SPINDOWN = "SPINDOWN"
EXTERNAL_S, INTERNAL_S = 2.0, 0.5
"""How long a shutdown may take, with an external extension and with internal ones alone."""

RUNTIME_S = 0.3
"""The part of it that the runtime has, where there are external ones."""


class ExtensionFailed(Broken):
    """An extension ended, or said that it cannot go on; `failure` of Extensions says which."""


class Extensions:
    """Of one environment. `broken` is called when one fails while nothing here waits for it."""

    def __init__(
        self,
        function: FunctionSpec,
        processes: Processes,
        server: Server,
        programs: dict[str, Program],  # external ones, by name
        outputs: Sequence[Output],  # one, of external ones, or none
        platform: PlatformLog,
        telemetry: Telemetry,
    ) -> None:
        self._function = function
        self._processes = processes
        self._server = server
        self._programs = programs
        self._output = outputs[0] if outputs else None
        self._platform = platform
        self._telemetry = telemetry
        account = function.arn.split(":")[4]
        self._about = About(function.name, function.version, function.handler, account)
        self._running: dict[str, Process] = {}  # external ones that have not ended
        self._changes = asyncio.Event()
        self._told: set[Extension] = set()  # of which the log knows
        self._done: Callable[[Ending], None] | None = None  # of an invocation that they hold
        self._timer: asyncio.TimerHandle | None = None
        self._shutdown: _Shutdown | None = None
        self._ending = False  # from a shutdown to the next start, ends are no failures
        self.failure: tuple[str, str] | None = None  # error type, and why
        self.broken: Callable[[], None] = lambda: None
        self.api = self._new_api()
        port = processes.places.port
        telemetry_api = TelemetryApi(telemetry, platform, self._find, port)
        server.services[TELEMETRY_VERSION] = telemetry_api
        server.services[LOGS_VERSION] = telemetry_api

    def _find(self, identifier: str) -> Extension | Refusal:
        return self.api.roster.find(identifier)

    @property
    def external(self) -> bool:
        """True if there are external ones, which start before the runtime."""
        return bool(self._programs)

    @property
    def none(self) -> bool:
        """True if none has registered: there is nobody to tell of an invocation, or to wait for."""
        return self.api.roster.empty

    @property
    def settled(self) -> bool:
        """True while every one that is there waits for an event."""
        return self.none or self.api.settled

    @property
    def busy(self) -> bool:
        """True while an invocation is held, or a shutdown goes on."""
        return self._done is not None or self._shutdown is not None

    # init

    async def start(self) -> None:
        """Start the external ones, as after a reset. Raises NotStarted."""
        self.failure = None
        self._ending = False
        self._told.clear()
        self.api = self._new_api()
        for name, program in self._programs.items():
            output = -1 if self._output is None else self._output.write_end
            process = await self._processes.start_program(
                program.command, program.environment, program.directory, output
            )
            self._watch(name, process)

    def _new_api(self) -> ExtensionsApi:
        api = ExtensionsApi(self._about, Roster(self._programs), self._changed)
        self._server.services[VERSION] = api
        return api

    def _watch(self, name: str, process: Process) -> None:
        api = self.api
        self._running[name] = process

        def exited(future: asyncio.Future[int]) -> None:
            if self._running.get(name) is process:
                del self._running[name]
            if api is self.api and not future.cancelled():
                self._exited(name, future.result())
            self._changed()

        process.exited.add_done_callback(exited)

    def _exited(self, name: str, status: int) -> None:
        kind = "Extension.Crash"
        for member in self.api.roster.members:
            if member.name == name:
                self.api.roster.lose(member, kind)
                kind = member.error_type
        why = f"exit status {status}" if status >= 0 else f"signal: {_signal_name(-status)}"
        self._fail(kind, why)

    async def registered(self) -> None:
        """Wait until every external one has registered. Raises ExtensionFailed."""
        await self._until(lambda: not self.api.roster.missing)

    async def ready(self) -> None:
        """No more may register; wait until all have asked for an event. Raises ExtensionFailed."""
        self.api.roster.open = False
        await self._until(lambda: self.api.settled)
        self._telemetry.settle()

    async def _until(self, there: Callable[[], bool]) -> None:
        while True:
            if self.failure is not None:
                raise ExtensionFailed
            if there():
                return
            self._changes.clear()
            await self._changes.wait()

    def report(self) -> None:
        """Tell the log of those that it does not know, and of those that never registered."""
        for member in self.api.roster.members:
            if member not in self._told:
                self._told.add(member)
                state = member.stage.value if member.stage is not Stage.FAILED else member.error_type
                self._platform.extension(
                    member.name, state.removeprefix("Extension."), sorted(member.events), member.error_type
                )
        if self.failure is not None:
            for name in self.api.roster.missing:
                state, kind = ("Started", "") if name in self._running else ("Crash", "Extension.Crash")
                self._platform.extension(name, state, [], kind)

    # invoke

    def begin(self, invocation: Invocation) -> None:
        """Tell those that want to know. Raises ExtensionFailed."""
        if self.failure is not None:
            raise ExtensionFailed
        if self._output is not None:
            self._output.begin()
        if self.none:
            return
        members = [one for one in self.api.roster.members if INVOKE in one.events]
        if members:
            event = invoke_event(
                invocation.request_id, invocation.deadline_ms, self._function.arn, invocation.trace
            )
            for member in members:
                self.api.tell(member, event)

    def hold(self, left_s: float, done: Callable[[Ending], None]) -> None:
        """Call `done` once all have asked for their next event; after `left_s`, with a timeout."""
        self._done = done
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(left_s, 0.0), self._let_go, Ending("timeout"))
        self._look()

    def _look(self) -> None:
        if self._done is not None and self.failure is not None:
            self._let_go(Ending("failure", self.failure[0]))
        elif self._done is not None and self.api.settled:
            self._let_go(SUCCESS)

    def _let_go(self, ending: Ending) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if done is not None:
            done(ending)
        self._changes.set()

    async def idle(self) -> None:
        """Return once nothing is held, and no shutdown goes on."""
        while self.busy:
            self._changes.clear()
            await self._changes.wait()

    # failures

    def _changed(self) -> None:
        self._changes.set()
        for member in self.api.roster.members:
            if member.stage is Stage.FAILED:
                self._fail(member.error_type, f"extension {member.name}")
        self._look()
        if self._shutdown is not None:
            self._shutdown.look()

    def _fail(self, kind: str, why: str) -> None:
        if self.failure is None and not self._ending:
            self.failure = kind, why
            self._changes.set()
            self.broken()
            self._look()

    def flush(self) -> None:
        """Log what the external ones have written, an unfinished line too."""
        if self._output is not None:
            self._output.end()

    # shutdown

    def shut_down(self, reason: str, runtime: Process | None, over: Callable[[], None]) -> None:
        """Begin to end the runtime and all of them; `over` is called at the latest when the time is up.

        With `reason` SPINDOWN the runtime may end by itself, on SIGTERM, if an extension is registered.
        """
        if self._shutdown is not None:
            return
        self._let_go(SUCCESS)
        self._ending = True
        self._telemetry.flush()

        def ended() -> None:
            self._shutdown = None
            if reason != SPINDOWN:
                self._telemetry.restart()
            over()
            self._changes.set()

        members = self.api.roster.members
        external = bool(self._running)
        limit_s = EXTERNAL_S if external else INTERNAL_S if members else 0.0
        softly = reason == SPINDOWN and bool(members)
        if not external and not softly:
            ended()
            return
        event = shutdown_event(reason, int((time.time() + limit_s) * 1000))
        self._shutdown = _Shutdown(self._processes, runtime, lambda: self._tell_all(event), ended)
        self._shutdown.running = lambda: bool(self._running)
        self._shutdown.begin(limit_s, softly, external)

    def _tell_all(self, event: bytes) -> None:
        """The runtime is gone: those that asked for it hear of the end, the other ones end at once."""
        told = set()
        for member in self.api.roster.members:
            if SHUTDOWN in member.events and member.stage is not Stage.FAILED:
                self.api.tell(member, event)
                told.add(member.name)
        for name, process in list(self._running.items()):
            if name not in told:
                self._processes.signal(process, signal.SIGKILL)

    def freeze(self) -> None:
        """The environment is about to be frozen: whoever waits for something goes on waiting."""
        self._server.drop_idle()

    def close(self) -> None:
        """The environment is gone."""
        self._ending = True
        self._let_go(SUCCESS)
        if self._shutdown is not None:
            self._shutdown.cancel()
        self._server.close()
        self._telemetry.close()
        self.flush()
        if self._output is not None:
            self._output.close()


class _Shutdown:
    """The runtime first, then the extensions, then `over`; each has its time."""

    def __init__(
        self,
        processes: Processes,
        runtime: Process | None,
        tell: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        self._processes = processes
        self._runtime = runtime
        self._tell: Callable[[], None] | None = tell
        self._over: Callable[[], None] | None = over
        self._timers: list[asyncio.TimerHandle] = []
        self.running: Callable[[], bool] = lambda: False

    def begin(self, limit_s: float, softly: bool, external: bool) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(limit_s, self._end))
        if self._runtime is not None and not self._runtime.exited.done():
            if softly:
                self._processes.signal(self._runtime, signal.SIGTERM)
                self._timers.append(loop.call_later(RUNTIME_S if external else limit_s, self._kill))
            else:
                self._kill()
            self._runtime.exited.add_done_callback(lambda _: self.look())
        self.look()

    def look(self) -> None:
        """Go on as far as it can go."""
        if self._runtime is not None and not self._runtime.exited.done():
            return
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()
        if not self.running():
            self._end()

    def cancel(self) -> None:
        """Let go of it, at once."""
        self._end()

    def _kill(self) -> None:
        if self._runtime is not None and not self._runtime.exited.done():
            self._processes.signal(self._runtime, signal.SIGKILL)

    def _end(self) -> None:
        for timer in self._timers:
            timer.cancel()
        over, self._over = self._over, None
        if over is not None:
            over()


def _signal_name(number: int) -> str:
    return "killed" if number == signal.SIGKILL else str(number)
