"""A runtime pool on each driver, with functions written by the test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millstream.contract.clock import Clock, SystemClock
from millstream.contract.functions import FunctionFailed, FunctionSpec, Outcome, Success
from millstream.contract.outside_json import read
from millstream.contract.ports import Sandbox
from millstream.contract.registry import load_plugin
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool

DRIVERS = ["bwrap", "process"]


@dataclass
class Runtime:
    """One function on one driver."""

    pool: RuntimePool
    sandbox: Sandbox
    logs: FunctionLogs
    log_file: Path

    async def invoke(self, event: object = None) -> Outcome:
        return await self.pool.invoke("f", msgspec.json.encode(event))

    async def answer(self, event: object = None) -> Any:
        """What the function answered; fails the test if it failed."""
        outcome = await self.invoke(event)
        assert isinstance(outcome, Success), outcome
        return read(outcome.payload)

    async def error(self, event: object = None) -> dict[str, Any]:
        """The error document; fails the test if the function succeeded."""
        outcome = await self.invoke(event)
        assert isinstance(outcome, FunctionFailed), outcome
        document: dict[str, Any] = read(outcome.payload)
        assert document["errorType"] == outcome.error_type
        return document

    def log(self) -> str:
        self.logs.flush()
        return self.log_file.read_text(encoding="utf-8")


def mathematics() -> str:
    """The C library's file for it, which a Python has loaded."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    return next(word for word in maps if "/libm." in word)


MakeRuntime = Callable[..., Any]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "bwrap" and not sys.platform.startswith("linux"):
        pytest.skip("the bwrap driver needs Linux")
    return name


@pytest.fixture
def runtime(tmp_path: Path) -> MakeRuntime:
    """`runtime(driver, code, **spec)`: an async context with a Runtime; the handler is `f.handle`."""

    @asynccontextmanager
    async def make(
        driver: str,
        code: str,
        clock: Clock | None = None,
        idle_s: float = 300.0,
        concurrency: int = 100,
        **spec: Any,
    ) -> AsyncIterator[Runtime]:
        folder = tmp_path / "code"
        folder.mkdir(exist_ok=True)
        (folder / "f.py").write_text(code, encoding="utf-8")
        arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
        function = replace(FunctionSpec("f", arn, "f.handle", folder), **spec)
        sandbox: Sandbox = load_plugin("sandboxes", driver)(tmp_path / "sandboxes")
        await sandbox.start()
        logs = FunctionLogs(tmp_path / "logs")
        ledger = ConcurrencyLedger(concurrency, [function])
        pool = RuntimePool({"f": function}, sandbox, ledger, logs, clock or SystemClock(), idle_s)
        try:
            async with pool:
                yield Runtime(pool, sandbox, logs, tmp_path / "logs" / "f.log")
        finally:
            await sandbox.aclose()

    return make
