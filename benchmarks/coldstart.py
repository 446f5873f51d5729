"""Cold start: request → first response in a fresh environment, zygote against a plain spawn.

The plain spawn is a subprocess that runs the same bootstrap with the same handler and no isolation;
the zygote's environment has all of it. Interleaved, after a warm-up of both.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import Result, case
from millstream.contract.functions import FunctionSpec, Success
from millstream.contract.ports import ExecutionEnvironment, LogSink, Sandbox
from millstream.runtime.assemble import assemble
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.processes import Places
from millstream.runtime.sandboxes.bwrap import BwrapSandbox
from millstream.runtime.sandboxes.launching import Launch
from millstream.runtime.sandboxes.plain import PlainProcesses

REPEATS = 40
WARM_UP = 5
BURST = 20
OURS = ["-c", "from millstream.runtime.bootstrap.bootstrap import main; main()"]

HANDLER = """
import datetime, json, logging, re


def handle(event, context):
    return {"at": datetime.datetime.now().isoformat(), "event": event}
"""


class PlainSpawn:
    """Implements Sandbox with nothing but a subprocess that runs the same bootstrap."""

    async def start(self) -> None: ...

    def limits(self) -> str:
        return "none"

    async def create(self, function: FunctionSpec, log: LogSink) -> ExecutionEnvironment:
        async def spawned() -> PlainProcesses:
            places = Places(task_root=str(function.code))
            python = Launch([sys.executable, "-E", "-s", *OURS])
            return PlainProcesses(places, Path(function.code), python, plain, None)

        return await assemble(function, log, spawned)

    async def aclose(self) -> None: ...


def plain(command: Sequence[str], environment: Mapping[str, str], directory: str) -> Launch:
    """A program as it is, with the environment that env(1) gives it."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return Launch(["env", "-i", f"--chdir={directory}", *variables, *command])


def run() -> Result:
    """Milliseconds of one start, and of a burst of twenty."""
    return asyncio.run(_run())


async def _run() -> Result:
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        code.mkdir()
        (code / "cold.py").write_text(HANDLER, encoding="utf-8")
        function = FunctionSpec("cold", "arn:aws:lambda:us-east-1:0:function:cold", "cold.handle", code)
        logs = FunctionLogs(Path(folder) / "logs")
        zygote, spawn = BwrapSandbox(Path(folder) / "zygote"), PlainSpawn()
        times: dict[Sandbox, list[float]] = {zygote: [], spawn: []}
        for sandbox in times:
            await sandbox.start()
        for repeat in range(WARM_UP + REPEATS):
            for sandbox, into in times.items():
                elapsed_ms = await start_one(sandbox, function, logs)
                if repeat >= WARM_UP:
                    into.append(elapsed_ms)
        bursts = {sandbox: await burst_of_starts(sandbox, function, logs) for sandbox in times}
        for sandbox in times:
            await sandbox.aclose()
    burst = {"burst_ms": round(bursts[zygote], 1), "baseline_burst_ms": round(bursts[spawn], 1)}
    figures = case(times[zygote], times[spawn], "ms", **burst)
    return {"benchmark": "coldstart", "cases": {"zygote": figures}}


async def start_one(sandbox: Sandbox, function: FunctionSpec, logs: FunctionLogs) -> float:
    """Milliseconds from nothing to the first response."""
    started_at = time.perf_counter()
    environment = await _started(sandbox, function, logs)
    elapsed_ms = (time.perf_counter() - started_at) * 1000
    await environment.aclose()
    return elapsed_ms


async def burst_of_starts(sandbox: Sandbox, function: FunctionSpec, logs: FunctionLogs) -> float:
    """Milliseconds from nothing to the last of BURST first responses."""
    started_at = time.perf_counter()
    made = await asyncio.gather(*(_started(sandbox, function, logs) for _ in range(BURST)))
    elapsed_ms = (time.perf_counter() - started_at) * 1000
    await asyncio.gather(*(environment.aclose() for environment in made))
    return elapsed_ms


async def _started(sandbox: Sandbox, function: FunctionSpec, logs: FunctionLogs) -> ExecutionEnvironment:
    environment = await sandbox.create(function, logs.of(function.name))
    outcome = await environment.invoke(b'{"a": 1}', "00000000-0000-0000-0000-000000000000")
    assert isinstance(outcome, Success), outcome
    return environment
