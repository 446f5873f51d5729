"""A hostile function and a victim beside it in one daemon's loop, and what the victim notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from millstream.contract.clock import SystemClock
from millstream.contract.functions import FunctionSpec, Outcome, Success
from millstream.contract.ports import Sandbox
from millstream.contract.registry import load_plugin
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool

VICTIM = "def handle(event, context):\n    return event\n"
EVERY_S = 0.02
ALONE = 50
"""Invocations by which it is known how long they take without an attack."""

TIMES_SLOWER, FLOOR_S = 3.0, 0.2
"""A victim may notice a 99th percentile so many times higher, or one that a busy machine has anyway."""


@dataclass
class Beside:
    """Results of an attack, and of the victim's invocations meanwhile."""

    outcome: Outcome
    took_s: list[float] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)
    stood_still_s: float = 0.0  # the loop, longest

    @property
    def unharmed(self) -> bool:
        """True if the victim has hardly noticed."""
        return p99(self.took_s) <= max(TIMES_SLOWER * p99(self.alone_s), FLOOR_S)

    def __str__(self) -> str:
        took = f"{p99(self.took_s):.3f} s of {len(self.took_s)}"
        return f"p99 {took}, alone {p99(self.alone_s):.3f} s, loop stood {self.stood_still_s:.3f} s"


@dataclass
class Pair:
    """The two functions in their pool."""

    pool: RuntimePool

    async def attack(self, event: object = None) -> Beside:
        """Run the hostile function once; the victim is invoked all the while, and must answer right."""
        alone = [await self._victim(number) for number in range(ALONE)]
        took: list[float] = []
        async with asyncio.TaskGroup() as group:
            attacking = group.create_task(self.pool.invoke("hostile", msgspec.json.encode(event)))
            stood = group.create_task(longest_stall(attacking))
            while not attacking.done():
                took.append(await self._victim(len(took)))
                await asyncio.sleep(EVERY_S)
        return Beside(attacking.result(), took, alone, stood.result())

    async def _victim(self, number: int) -> float:
        began_at = time.monotonic()
        outcome = await self.pool.invoke("victim", msgspec.json.encode(number))
        assert isinstance(outcome, Success), outcome
        assert msgspec.json.decode(outcome.payload) == number
        return time.monotonic() - began_at


async def longest_stall(while_running: asyncio.Task[Any]) -> float:
    """Return how long the loop went without a turn at most."""
    longest_s, turned_at = 0.0, time.monotonic()
    while not while_running.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest_s, turned_at = max(longest_s, now - turned_at), now
    return longest_s


@asynccontextmanager
async def pair(driver: str, folder: Path, hostile: str, **spec: Any) -> AsyncIterator[Pair]:
    """Run both on a driver; the victim has had its cold start."""
    functions = {
        "hostile": replace(_function(folder, "hostile", hostile), **spec),
        "victim": _function(folder, "victim", VICTIM),
    }
    sandbox: Sandbox = load_plugin("sandboxes", driver)(folder / "sandboxes")
    await sandbox.start()
    ledger = ConcurrencyLedger(100, [*functions.values()])
    pool = RuntimePool(functions, sandbox, ledger, FunctionLogs(folder / "logs"), SystemClock())
    try:
        async with pool:
            for name in functions:
                await pool.invoke(name, b"0")
            yield Pair(pool)
    finally:
        await sandbox.aclose()


def p99(times_s: list[float]) -> float:
    """The 99th percentile."""
    return sorted(times_s)[int(0.99 * (len(times_s) - 1))]


def _function(folder: Path, name: str, code: str) -> FunctionSpec:
    at = folder / name
    at.mkdir()
    (at / "f.py").write_text(code, encoding="utf-8")
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    return FunctionSpec(name, arn, "f.handle", at, timeout_s=20.0)
