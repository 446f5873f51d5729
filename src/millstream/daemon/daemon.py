"""The composition root: puts a plan's functions, mappings and destinations together and runs them."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from millstream.contract.clock import Clock, SystemClock
from millstream.contract.errors import (
    InvalidConfiguration,
    Problem,
    Refused,
    SourceUnavailable,
)
from millstream.contract.functions import FunctionFailed, FunctionSpec, Success, Throttled, TooLarge
from millstream.contract.ports import Host, Sandbox
from millstream.contract.registry import load_plugin, plugin_names
from millstream.contract.state import MappingRow, MappingStatus, StateStore
from millstream.daemon import control, data_dir
from millstream.daemon.attendance import Attendance, Retirement
from millstream.daemon.counters import Counters
from millstream.daemon.deployment import deployed
from millstream.daemon.drivers import driver
from millstream.daemon.known import called_otherwise
from millstream.daemon.metrics import metrics
from millstream.daemon.opening import Opening
from millstream.daemon.plan import Plan, PlannedMapping
from millstream.daemon.settings import Settings
from millstream.daemon.status import StatusBoard
from millstream.daemon.watchdog import watched
from millstream.mappings.supervise import Supervisor
from millstream.runtime.concurrency import ConcurrencyLedger, check_shares
from millstream.runtime.log_files import MB, LogLimits
from millstream.runtime.log_stream import JsonLines
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.memory import default_budget_mb
from millstream.runtime.pool import RuntimePool

logger = logging.getLogger(__name__)

DAY_S = 86400.0
STATUS_EVERY_S = 1.0
"""How often changed counters are written; what a kill loses of them."""

BACKLOG_S = 2.0
"""How long a source may take to say how much waits, for a table that a person looks at."""


@dataclass(frozen=True, slots=True)
class Live:
    """A mapping of a running daemon."""

    row: MappingRow
    planned: PlannedMapping
    supervisor: Supervisor


class Daemon:
    """Runs one plan until it is stopped.

    `stop` ends softly: no further poll, what was received is finished and settled, at most
    `drain_s`. A cancelled `run` ends at once; what was in flight comes again.
    """

    def __init__(self, settings: Settings, plan: Plan, clock: Clock | None = None) -> None:
        self._settings = settings
        self._plan = plan
        self._clock = clock or SystemClock()
        self._stopping = asyncio.Event()
        self.board = StatusBoard(self._clock)
        self.drained = True
        self._live: list[Live] = []
        self._pool: RuntimePool | None = None
        self._owner = ""  # the daemon's id, once its directory is locked

    def stop(self) -> None:
        """End softly."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until stopped.

        Raises:
            DataDirInUse, StateUnavailable, SandboxUnavailable, InvalidConfiguration: it cannot start.
        """
        directory = self._settings.data_dir
        with data_dir.locked(directory), watched():
            async with AsyncExitStack() as stack:
                functions = await deployed(self._plan, self._settings, stack.enter_context(ExitStack()))
                if problems := check_shares(self._settings.concurrency, functions.values()):
                    raise InvalidConfiguration(problems)
                sandbox = driver(self._settings.isolation, directory / "sandboxes")
                await sandbox.start()
                extra = {"isolation": self._settings.isolation, "limits": sandbox.limits()}
                logger.info("sandbox ready", extra=extra)
                stack.push_async_callback(sandbox.aclose)
                store = open_store(self._settings)
                stack.push_async_callback(store.aclose)
                pool = self._make_pool(functions, sandbox)
                self._pool = await stack.enter_async_context(pool)
                host = self._host(pool)
                before, self._owner = data_dir.new_daemon_id(directory)
                if before is not None:
                    await store.succeed(before, self._owner)
                self._live = [await self._prepare(store, host, functions, m) for m in self._plan.mappings]
                retirement = Retirement(self._plan.app, self._owner, store, self._clock)
                await retirement.look({live.row.uuid for live in self._live})
                socket = data_dir.control_socket(directory)
                await stack.enter_async_context(control.served(socket, self._answer))
                logger.info("daemon started", extra={"app": self._plan.app, "mappings": len(self._live)})
                await self._run_mappings(store, retirement)

    def _make_pool(self, functions: Mapping[str, FunctionSpec], sandbox: Sandbox) -> RuntimePool:
        settings = self._settings
        return RuntimePool(
            functions,
            sandbox,
            ConcurrencyLedger(settings.concurrency, functions.values()),
            self._logs(),
            self._clock,
            settings.idle_s,
            max_age_s=settings.max_age_s,
            freeze_after_s=settings.freeze_after_s,
            memory_mb=default_budget_mb() if settings.memory_mb is None else settings.memory_mb,
        )

    def _logs(self) -> FunctionLogs:
        """The functions' logs, where they are wanted."""
        settings = self._settings
        days = settings.log_max_days
        limits = LogLimits(settings.log_max_mb * MB, None if days is None else days * DAY_S)
        also = None if settings.function_logs == "files" else JsonLines(sys.stdout.fileno())
        directory = None if settings.function_logs == "json" else data_dir.logs(settings.data_dir)
        return FunctionLogs(directory, limits, also)

    def _host(self, pool: RuntimePool) -> Host:
        settings = self._settings
        return Host(settings.data_dir, self._clock, pool, settings.endpoint_url, settings.region)

    async def _prepare(
        self, store: StateStore, host: Host, functions: Mapping[str, FunctionSpec], planned: PlannedMapping
    ) -> Live:
        wanted = MappingRow(
            uuid=str(uuid.uuid4()),
            app=self._plan.app,
            function=planned.function,
            kind=planned.kind,
            source=planned.trigger.source,
            enabled=planned.enabled,
            last_modified=self._clock.now(),
        )
        declared = {(each.function, each.kind, each.trigger.source) for each in self._plan.mappings}
        before_it = called_otherwise(await store.mappings(), wanted, declared)
        if before_it is not None:
            names = {"before": before_it.source, "now": wanted.source}
            logger.info(
                "mapping known by another name of its source", extra={"mapping": wanted.kind, **names}
            )
            await store.name_source(before_it.uuid, wanted.source)
        row = await store.put_mapping(wanted)
        before = {status.uuid: status for status in await store.statuses(self._owner)}
        self.board.add(row.uuid, f"{row.kind} {row.source} → {row.function}", before.get(row.uuid))
        share = self._settings.buffer_mb * 1024 * 1024 // len(self._plan.mappings)
        function = functions[planned.function]
        opening = Opening(row, planned, function, host, self.board, store, self._owner, share)
        return Live(row, planned, Supervisor(row.uuid, opening.runner, self.board, self._clock))

    async def _run_mappings(self, store: StateStore, retirement: Retirement) -> None:
        async with asyncio.TaskGroup() as group:
            counters = Counters(store, self._owner)
            attendance = Attendance([live.row.uuid for live in self._live], self._owner, store)
            beside = [
                group.create_task(self._keep_status(counters)),
                group.create_task(attendance.keep(self._clock)),
                group.create_task(retirement.keep({live.row.uuid for live in self._live})),
            ]
            running = [group.create_task(live.supervisor.run()) for live in self._live if live.row.enabled]
            for live in self._live:
                if not live.row.enabled:
                    self.board.state_changed(live.row.uuid, "Disabled", "")
            await self._stopping.wait()
            logger.info("daemon stops", extra={"drain_s": self._settings.drain_s})
            for live in self._live:
                live.supervisor.stop()
            if running:
                _, late = await asyncio.wait(running, timeout=self._settings.drain_s)
                self.drained = not late
                for task in late:
                    task.cancel()
            for task in beside:
                task.cancel()
        await attendance.end()
        await counters.write([replace(s, state="Stopped") for s in self._statuses()])
        logger.info("daemon stopped", extra={"drained": self.drained})

    async def _keep_status(self, counters: Counters) -> None:
        while True:
            await self._clock.sleep(STATUS_EVERY_S)
            self.board.sample()
            if changed := self.board.take_changed():
                await counters.write(changed)

    def _statuses(self) -> list[MappingStatus]:
        return [self.board.status(live.row.uuid) for live in self._live]

    # control

    async def _answer(self, request: control.Request) -> dict[str, Any]:
        match request.op:
            case "mappings":
                return {"mappings": [await self.describe(live, request.backlog) for live in self._live]}
            case "functions":
                assert self._pool is not None
                return {"functions": [msgspec.to_builtins(state) for state in self._pool.state()]}
            case "invoke":
                return await self._invoke(request)
            case _:
                return {"error": f"op: wanted mappings, functions or invoke, found {request.op!r}"}

    async def describe(self, live: Live, backlog: bool) -> dict[str, Any]:
        """One mapping as the command line shows it."""
        status = self.board.status(live.row.uuid)
        return {
            "row": msgspec.to_builtins(live.row),
            "status": msgspec.to_builtins(status),
            "backlog": await backlog_of(live.supervisor) if backlog else None,
            "rate": self.board.rate(live.row.uuid),
            "metrics": metrics(status),
            "details": dict(live.supervisor.details),
        }

    async def _invoke(self, request: control.Request) -> dict[str, Any]:
        if request.function not in self._plan.functions:
            known = ", ".join(sorted(self._plan.functions)) or "none"
            return {"error": f"function: wanted one of {known}, found {request.function!r}"}
        assert self._pool is not None
        outcome = await self._pool.invoke(request.function, request.payload.encode())
        match outcome:
            case Success(payload=payload, request_id=request_id):
                return {"payload": payload.decode(), "request_id": request_id}
            case FunctionFailed(payload=payload, request_id=request_id):
                return {"payload": payload.decode(), "request_id": request_id, "function_error": "Unhandled"}
            case TooLarge():
                return {"error": f"RequestTooLargeException: {outcome.message}"}
            case Throttled(reason=reason):
                return {"error": f"Rate Exceeded. ({reason})"}


def open_store(settings: Settings) -> StateStore:
    """The state store that the settings name; it connects at its first call.

    Raises:
        InvalidConfiguration: there is no such kind of store.
    """
    if settings.store is None:
        store: StateStore = load_plugin("stores", "sqlite")(data_dir.database(settings.data_dir))
        return store
    kind = settings.store.partition(":")[0]
    try:
        store = load_plugin("stores", kind)(settings.store)
    except KeyError:
        known = ", ".join(f"{name}://…" for name in plugin_names("stores") if name != "sqlite")
        # What was given is not repeated: it may hold a password.
        raise InvalidConfiguration([Problem("", "--store", f"one of {known}", "another kind")]) from None
    return store


async def backlog_of(supervisor: Supervisor) -> int | None:
    """About how many records wait. None: the source does not say so, or not in time."""
    with suppress(TimeoutError, SourceUnavailable, Refused, InvalidConfiguration):
        async with asyncio.timeout(BACKLOG_S):
            return await supervisor.backlog()
    return None
