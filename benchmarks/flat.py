"""What the daemon holds after many environments and many invocations: as much as after a tenth of them.

Memory in MB and open descriptors of the process that has the pool, after all, beside the same after a tenth.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.report import Result, case
from benchmarks.runtime import EVENT, ID, Bench, opened
from millstream.contract.clock import SystemClock
from millstream.contract.functions import Success
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.pool import RuntimePool

ENVIRONMENTS, INVOCATIONS = 2_000, 100_000
AT_ONCE = 4


def run() -> Result:
    """Megabytes; descriptors beside them."""
    return asyncio.run(_run())


async def _run() -> Result:
    async with opened() as bench:
        cases = {"environments": await _environments(bench), "invocations": await _invocations(bench)}
    return {"benchmark": "flat", "cases": cases}


async def _environments(bench: Bench) -> dict[str, object]:
    function = bench.function("environments")

    async def one() -> None:
        environment = await bench.sandbox.create(function, bench.logs.of(function.name))
        assert isinstance(await environment.invoke(EVENT, ID), Success)
        await environment.aclose()

    return await _held_after(ENVIRONMENTS, one)


async def _invocations(bench: Bench) -> dict[str, object]:
    function = bench.function("invocations")
    ledger = ConcurrencyLedger(10 * INVOCATIONS, [function])
    functions = {function.name: function}
    async with RuntimePool(functions, bench.sandbox, ledger, bench.logs, SystemClock()) as pool:

        async def one() -> None:
            assert isinstance(await pool.invoke(function.name, EVENT), Success)

        return await _held_after(INVOCATIONS, one)


async def _held_after(times: int, one: Callable[[], Awaitable[None]]) -> dict[str, object]:
    async def some(count: int) -> tuple[float, int]:
        async def lane() -> None:
            for _ in range(count // AT_ONCE):
                await one()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(lane())
        return _resident_mb(), len(os.listdir("/proc/self/fd"))

    early_mb, early = await some(times // 10)
    late_mb, late = await some(times - times // 10)
    return case([late_mb], [early_mb], "MB", descriptors=late, baseline_descriptors=early, times=times)


def _resident_mb() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS:"))
