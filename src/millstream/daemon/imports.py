"""Imports each Python handler once, in a sandbox, and says what is missing before anything runs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from millstream.contract.errors import Problem, SandboxUnavailable
from millstream.contract.functions import FunctionFailed, FunctionSpec
from millstream.contract.ports import Sandbox
from millstream.daemon.deployment import deployed
from millstream.daemon.drivers import driver
from millstream.daemon.plan import Plan
from millstream.daemon.plan_functions import PlannedFunction
from millstream.daemon.settings import Settings
from millstream.functions.trees import shown

AT_ONCE = 4
"""Handlers that are imported at the same time."""

INIT_S = 10.0
"""Seconds that a handler may take to load, or as many as its function may. Source: AWS, the init phase."""

MISSING = "No module named '"


@dataclass(slots=True)
class Imported:
    """Results of the imports. `failed`: functions not loaded, for a reason that `run` may not meet."""

    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unavailable: str = ""  # why no sandbox is to be had


class _NoLog:
    """Implements LogSink: what a handler prints while it is imported is nobody's."""

    def write(self, stream: str, text: str) -> None: ...


async def import_handlers(plan: Plan, isolation: str) -> Imported:
    """Import the handlers of functions that our own bootstrap runs; nothing of it stays.

    A function has no network meanwhile.

    Raises:
        InvalidConfiguration: a package cannot be deployed, or there is no such driver.
        StateUnavailable: there is no room for it.
    """
    imported = Imported()
    chosen = {name: each for name, each in plan.functions.items() if each.image is None}
    chosen = {name: each for name, each in chosen.items() if not each.launch.command}
    if not chosen:
        return imported
    with tempfile.TemporaryDirectory(prefix="millstream-check-") as place, ExitStack() as held:
        sandbox = driver(isolation, Path(place, "sandboxes"))
        try:
            await sandbox.start()
        except SandboxUnavailable as unavailable:
            imported.unavailable = str(unavailable)
            return imported
        try:
            settings = Settings(data_dir=Path(place, "data"), isolation=isolation)
            specs = await deployed(replace(plan, functions=chosen), settings, held, compiled=False)
            await _import_all(specs, chosen, sandbox, imported)
        finally:
            await sandbox.aclose()
    return imported


async def _import_all(
    specs: Mapping[str, FunctionSpec],
    planned: Mapping[str, PlannedFunction],
    sandbox: Sandbox,
    imported: Imported,
) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    found: dict[str, FunctionFailed | str | None] = {}

    async def one(name: str) -> None:
        async with room:
            found[name] = await _import(replace(specs[name], network=(), snap_start=False), sandbox)

    async with asyncio.TaskGroup() as group:
        for name in specs:
            group.create_task(one(name))
    for name in specs:
        match found[name]:
            case None:
                imported.count += 1
            case str(why):
                imported.failed[name] = why
            case FunctionFailed() as failed if problem := _problem(failed, planned[name]):
                imported.problems.append(problem)
            case FunctionFailed(error_type=kind, message=message):
                imported.failed[name] = f"{shown(kind)}: {shown(message)}"


async def _import(spec: FunctionSpec, sandbox: Sandbox) -> FunctionFailed | str | None:
    """Load a handler; the reason why that failed. None: it is loaded."""
    limit_s = max(INIT_S, spec.timeout_s)
    try:
        environment = await sandbox.create(spec, _NoLog())
    except SandboxUnavailable as unavailable:
        return str(unavailable)
    try:
        async with asyncio.timeout(limit_s):
            return await environment.prepare()
    except TimeoutError:
        return f"not loaded within {limit_s:g} s"
    finally:
        await environment.aclose()


def _problem(failed: FunctionFailed, planned: PlannedFunction) -> Problem | None:
    """Say what the user has to mend. None: that cannot be told from here."""
    handler = planned.options.handler or ""
    module, _, name = handler.rpartition(".")
    found = shown(failed.message)
    match failed.error_type:
        case "Runtime.ImportModuleError":
            wanted = f"a module {module} that can be imported"
            if missing := _missing(failed.message):
                wanted = f"{missing} in the package ({_way_out(missing, planned)}) or in a layer"
        case "Runtime.HandlerNotFound":
            wanted, found = f"a function {name} in module {module}", "none"
        case "Runtime.UserCodeSyntaxError":
            wanted = f"valid Python in all that {module} imports"
        case _:
            return None
    return Problem(planned.where, "handler", wanted, found)


def _missing(message: str) -> str | None:
    """The distribution to look for, by the top-level name of a module that is not there."""
    _, begun, rest = message.partition(MISSING)
    name = rest.partition("'")[0].partition(".")[0]
    return name if begun and name.isidentifier() and len(name) < 100 else None


def _way_out(missing: str, planned: PlannedFunction) -> str:
    assert planned.code is not None
    source = planned.code.source
    folder = str(source) if source.is_dir() else "FOLDER"
    command = f"`pip install {missing} -t {folder}`"
    return command if source.is_dir() else f"{command}, and zip that folder"
