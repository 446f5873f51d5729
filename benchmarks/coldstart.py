"""Cold start: request → first response in a fresh environment, zygote against a plain spawn.

The plain spawn is a subprocess that runs the same bootstrap with the same handler and no isolation;
the zygote's environment has all of it. Interleaved, after a warm-up of both.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Result, case
from millstream.contract.functions import FunctionSpec, Success
from millstream.contract.ports import ExecutionEnvironment, LogSink, Sandbox
from millstream.runtime import bootstrap
from millstream.runtime.environment import FramedEnvironment
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.sandboxes.bwrap import BwrapSandbox
from millstream.runtime.sandboxes.ends import open_ends

REPEATS = 40
WARM_UP = 5
BURST = 20

HANDLER = """
import datetime, json, logging, re


def handle(event, context):
    return {"at": datetime.datetime.now().isoformat(), "event": event}
"""


class _Process:
    """The one process of a plain spawn."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def kill(self) -> None:
        self._process.kill()

    async def gone(self) -> None:
        await self._process.wait()

    def out_of_memory(self) -> bool:
        return False

    def peak_kb(self) -> int:
        return 0


class PlainSpawn:
    """Implements Sandbox with nothing but a subprocess."""

    async def start(self) -> None: ...

    async def create(self, function: FunctionSpec, log: LogSink) -> ExecutionEnvironment:
        ends = open_ends(function.name, log)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", bootstrap.__path__[0] + "/bootstrap.py", str(ends.theirs.fileno()),
            pass_fds=[ends.theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
            stdout=ends.output.write_end, stderr=ends.output.write_end, env={},
        )  # fmt: skip
        ends.handed_over()
        processes = _Process(process)
        environment = FramedEnvironment(function, ends.ours, ends.output, processes, log, ends.stream)
        await environment.isolated(str(function.code), [])
        return environment

    async def aclose(self) -> None: ...


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
                elapsed_ms = await _start(sandbox, function, logs)
                if repeat >= WARM_UP:
                    into.append(elapsed_ms)
        bursts = {sandbox: await _burst(sandbox, function, logs) for sandbox in times}
        for sandbox in times:
            await sandbox.aclose()
    burst = {"burst_ms": round(bursts[zygote], 1), "baseline_burst_ms": round(bursts[spawn], 1)}
    figures = case(times[zygote], times[spawn], "ms", **burst)
    return {"benchmark": "coldstart", "cases": {"zygote": figures}}


async def _start(sandbox: Sandbox, function: FunctionSpec, logs: FunctionLogs) -> float:
    started_at = time.perf_counter()
    environment = await sandbox.create(function, logs.of(function.name))
    outcome = await environment.invoke(b'{"a": 1}', "00000000-0000-0000-0000-000000000000")
    elapsed_ms = (time.perf_counter() - started_at) * 1000
    assert isinstance(outcome, Success), outcome
    await environment.aclose()
    return elapsed_ms


async def _burst(sandbox: Sandbox, function: FunctionSpec, logs: FunctionLogs) -> float:
    started_at = time.perf_counter()
    await asyncio.gather(*(_start(sandbox, function, logs) for _ in range(BURST)))
    return (time.perf_counter() - started_at) * 1000
