"""The runtime pool: cold starts, bursts of them, warm invocations framed and over HTTP, idle environments.

Each beside its baseline in the same run: cold starts beside plain spawns of the same bootstrap without
any isolation, warm invocations beside the same link to the same process without the pool around it.
"""

from __future__ import annotations

import asyncio
import compileall
import os
import site
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.coldstart import BURST, PlainSpawn, burst_of_starts, start_one
from benchmarks.report import Result, case
from millstream.contract.clock import SystemClock
from millstream.contract.functions import FunctionSpec, Success
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.link import Invocation, Link
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool
from millstream.runtime.sandboxes.bwrap import BwrapSandbox

STARTS, WARM_UP = 40, 5
REST_S = 0.15
"""Between starts: a function that is asked for now and then, on a host that has nothing else to do."""

BURSTS = 5
INVOCATIONS, ROUNDS = 5_000, 5
LARGE = 20
IDLE = 50
EVENT = b'{"text": "' + b"x" * 1000 + b'"}'
LARGE_EVENT = b'{"text": "' + b"x" * (6 * 1024 * 1024 - 100) + b'"}'
ID = "00000000-0000-0000-0000-000000000000"
TRACE = "Root=1-00000000-000000000000000000000000;Parent=0000000000000000;Sampled=0"

HANDLER = """
import datetime, json, logging, re


def handle(event, context):
    return event
"""

WITH_BOTO3 = "import boto3\n" + HANDLER


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs."""

    folder: Path
    sandbox: BwrapSandbox
    logs: FunctionLogs

    def function(self, name: str, text: str = HANDLER) -> FunctionSpec:
        code = self.folder / f"code-{name}"
        code.mkdir()
        (code / "f.py").write_text(text, encoding="utf-8")
        compileall.compile_dir(code, quiet=2)  # as a package that is deployed
        arn = f"arn:aws:lambda:us-east-1:0:function:{name}"
        return FunctionSpec(name, arn, "f.handle", code, memory_size_mb=1024, timeout_s=30.0)


def run() -> Result:
    """Rates per second, or milliseconds; see the cases' units."""
    return asyncio.run(_run())


@asynccontextmanager
async def opened() -> AsyncIterator[Bench]:
    """A sandbox of its own, for functions of the benchmark alone."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        bench = Bench(folder, BwrapSandbox(folder / "sandboxes"), FunctionLogs(folder / "logs"))
        await bench.sandbox.start()
        try:
            yield bench
        finally:
            await bench.sandbox.aclose()


async def _run() -> Result:
    async with opened() as bench:
        cases = {
            "cold-zygote": await _cold(bench),
            "cold-burst": await _bursts(bench),
            "warm-framed": await _warm(bench, bench.function("framed")),
            "warm-framed-8": await _warm(bench, bench.function("lanes"), lanes=8),
            "warm-http": await _warm(bench, _with_ric(bench.function("http"))),
            "large-framed": await _large(bench, bench.function("large")),
        }
    async with opened() as bench:
        cases["idle-50"] = await _idle(bench)
    return {"benchmark": "runtime", "cases": cases}


async def _cold(bench: Bench) -> dict[str, object]:
    function, spawn = bench.function("cold"), PlainSpawn()
    ours: list[float] = []
    theirs: list[float] = []
    for repeat in range(WARM_UP + STARTS):
        await asyncio.sleep(REST_S)
        times = [await start_one(each, function, bench.logs) for each in (bench.sandbox, spawn)]
        if repeat >= WARM_UP:
            ours.append(times[0])
            theirs.append(times[1])
    return case(ours, theirs, "ms", p90=round(sorted(ours)[int(STARTS * 0.9)], 2))


async def _bursts(bench: Bench) -> dict[str, object]:
    function, spawn = bench.function("burst"), PlainSpawn()
    rates: dict[object, list[float]] = {bench.sandbox: [], spawn: []}
    for _ in range(BURSTS):
        for each in (bench.sandbox, spawn):
            elapsed_ms = await burst_of_starts(each, function, bench.logs)
            rates[each].append(BURST * 1000 / elapsed_ms)
    return case(rates[bench.sandbox], rates[spawn], "starts/s")


def _with_ric(function: FunctionSpec) -> FunctionSpec:
    """The same handler under awslambdaric, from this interpreter's packages."""
    outside_usr = not sys.base_prefix.startswith("/usr")
    place = "/var/lang" if outside_usr else sys.base_prefix
    python = f"{place}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return replace(
        function,
        command=(python, "-m", "awslambdaric", function.handler),
        variables={"PYTHONPATH": "/opt", "LD_LIBRARY_PATH": f"{place}/lib"},
        opt=Path(site.getsitepackages()[0]),
        interpreter=Path(sys.base_prefix) if outside_usr else None,
    )


async def _warm(bench: Bench, function: FunctionSpec, lanes: int = 1) -> dict[str, object]:
    """Invocations, each lane's one after another, through the pool and at the environments' bare links."""
    environments = [await bench.sandbox.create(function, bench.logs.of(function.name)) for _ in range(lanes)]
    links: list[Link] = []
    for environment in environments:
        await environment.invoke(EVENT, ID)
        assert environment.link is not None
        links.append(environment.link)

    async def bare(lane: int) -> object:
        await links[lane].settled()
        return await links[lane].run(Invocation(ID, EVENT, int((time.time() + 30.0) * 1000), TRACE))

    ledger = ConcurrencyLedger(1_000_000, [function])
    clock = SystemClock()
    async with RuntimePool({function.name: function}, bench.sandbox, ledger, bench.logs, clock) as pool:

        async def pooled(lane: int) -> object:
            return await pool.invoke(function.name, EVENT)

        rates: list[float] = []
        baselines: list[float] = []
        times: list[float] = []
        await _rate(pooled, lanes, times)
        for _ in range(ROUNDS):
            baselines.append(await _rate(bare, lanes, []))
            rates.append(await _rate(pooled, lanes, times := []))
    for environment in environments:
        await environment.aclose()
    return case(rates, baselines, "invocations/s", p50_ms=round(median(times) * 1000, 3))


async def _rate(invoke: Callable[[int], Awaitable[object]], lanes: int, times: list[float]) -> float:
    async def lane(number: int) -> None:
        before = time.perf_counter()
        for _ in range(INVOCATIONS // lanes):
            outcome = await invoke(number)
            assert isinstance(outcome, Success), outcome
            times.append((now := time.perf_counter()) - before)
            before = now

    began = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(lanes)))
    return INVOCATIONS / (time.perf_counter() - began)


async def _large(bench: Bench, function: FunctionSpec) -> dict[str, object]:
    """6 MB each way: seconds of the daemon's CPU in those that it takes."""
    environment = await bench.sandbox.create(function, bench.logs.of(function.name))
    await environment.invoke(LARGE_EVENT, ID)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(LARGE):
        assert isinstance(await environment.invoke(LARGE_EVENT, ID), Success)
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    await environment.aclose()
    return case([cpu_s], [elapsed_s], "s", per_second=round(LARGE / elapsed_s, 1))


async def _idle(bench: Bench) -> dict[str, object]:
    """Memory of environments that wait, with boto3 imported: MB of proportional set size each."""
    function = bench.function("idle", WITH_BOTO3)
    made = [await bench.sandbox.create(function, bench.logs.of("idle")) for _ in range(IDLE)]
    for environment in made:
        assert isinstance(await environment.invoke(EVENT, ID), Success)
    pids = _descendants(os.getpid())
    held_kb = sum(_pss_kb(pid) for pid in pids)
    alone_kb = max(_rss_kb(pid) for pid in pids)
    for environment in made:
        await environment.aclose()
    return case([held_kb / 1024 / IDLE], [alone_kb / 1024], "MB")


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            children += [int(child), *_descendants(int(child))]
    return children


def _pss_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _rss_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")), 0)
