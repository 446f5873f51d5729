"""The functions of examples/runtimes as a daemon has them, each started by its own client."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from millstream.contract.clock import SystemClock
from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.functions import FunctionSpec
from millstream.contract.registry import load_plugin
from millstream.daemon.deployment import deployed
from millstream.daemon.loader import load
from millstream.daemon.plan import make_plan
from millstream.daemon.settings import Settings
from millstream.functions.commands import Launch, Wanted
from millstream.functions.contents import Contents
from millstream.functions.interpreters import PYTHON, Interpreters
from millstream.functions.runtimes import RUNTIMES, VARIABLE, default_runtime
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool
from scripts import languages
from tests.runtime.conftest import Runtime

NODE = "nodejs22.x"
NODE_VARIABLE = f"{VARIABLE}{NODE.replace('.', '_').upper()}"


def unavailable(language: str, why: object) -> NoReturn:
    """Skips the test, or fails it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{language}: {why}")
    pytest.skip(f"{language}: {why}")


def interpreters(language: str) -> dict[str, Path]:
    """The programs that a configuration has to name."""
    return {NODE: languages.node()} if language == "nodejs" else {}


def lay_app(folder: Path, *names: str) -> Path:
    """app.py of the examples beside the packages of some languages, built as their own files say."""
    for name in names:
        try:
            package = languages.package(name)
        except OSError as error:
            unavailable(name, error)
        (folder / name).mkdir(parents=True)
        (folder / name / "build").symlink_to(package)
    shutil.copy(languages.EXAMPLES / "app.py", folder)
    return folder / "app.py"


def function(language: str, folder: Path) -> FunctionSpec:
    """A language's function as it is deployed; Python by awslambdaric, though our bootstrap could."""
    app = lay_app(folder, language)
    try:
        plan = make_plan(load(app), interpreters(language))
    except (InvalidConfiguration, OSError) as error:
        unavailable(language, error)
    with ExitStack() as held:
        spec = asyncio.run(deployed(plan, Settings(data_dir=folder / "data"), held))[language]
    return _by_awslambdaric(spec) if language == "python" else spec


def _by_awslambdaric(spec: FunctionSpec) -> FunctionSpec:
    name = default_runtime()
    runtime = RUNTIMES[name]
    program = Interpreters({}).find(name, PYTHON, runtime.version, runtime.variable)
    with closing(Contents(spec.code)) as code:
        assert not isinstance(program, Problem), program
        launch = runtime.command(
            Wanted(runtime.version, spec.handler, spec.memory_size_mb, program, code, ())
        )
    assert isinstance(launch, Launch), launch
    return replace(spec, command=launch.command, variables=launch.variables, interpreter=launch.interpreter)


@asynccontextmanager
async def running(
    spec: FunctionSpec, folder: Path, driver: str = "bwrap", **changed: Any
) -> AsyncIterator[Runtime]:
    """A pool with this function alone."""
    spec = replace(spec, name="f", **changed)
    sandbox = load_plugin("sandboxes", driver)(folder / "sandboxes")
    await sandbox.start()
    logs = FunctionLogs(folder / "logs")
    ledger = ConcurrencyLedger(10, [spec])
    try:
        async with RuntimePool({"f": spec}, sandbox, ledger, logs, SystemClock(), 300.0) as pool:
            yield Runtime(pool, sandbox, logs, folder / "logs" / "f.log")
    finally:
        await sandbox.aclose()
