"""Two functions of one daemon: one that takes what it can get, and one that must not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from millstream.contract.clock import SystemClock
from millstream.contract.functions import FunctionSpec, Success
from millstream.contract.registry import load_plugin
from millstream.runtime.concurrency import ConcurrencyLedger
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.pool import RuntimePool

ROUNDS = 100
"""Warm invocations that are measured, so that the slowest but one is about the 99th percentile."""

CONCURRENCY = 1000
"""So many may run, and ten times as many begin in a second: more than are tried."""

FLOOR_S = 0.2
"""A busy machine takes so much by itself. An attack that reaches its victim takes seconds from it, or all."""

TRIES = 3
"""A machine is busy with something else for a while; what a frozen attacker holds, it goes on to hold."""

TIMES = 3
FREEZE_S = 0.05

VICTIM = """
import os, select, socket, time
{needs}
def handle(e, c):
    time.sleep(e.get("sleep", 0))
    return [e["n"], needs()]
"""


@dataclass
class Pair:
    """The pool with both; `victim_s` is what the victim's warm invocations took while it was alone."""

    pool: RuntimePool
    victim_s: float
    rounds: int = ROUNDS

    async def attack(self, event: Any = True) -> Any:
        """The answer of the one that takes."""
        outcome = await self.pool.invoke("evil", msgspec.json.encode(event))
        assert isinstance(outcome, Success), outcome
        return msgspec.json.decode(outcome.payload)

    async def frozen(self) -> None:
        """Return once the one that takes is frozen, with all that it has taken."""
        async with asyncio.timeout(10.0):
            while not any(each.name == "evil" and each.frozen for each in self.pool.state()):
                await asyncio.sleep(0.01)

    async def unharmed(self) -> bool:
        """The victim works as if it were alone: warm, and in an environment that is made now."""
        async with asyncio.TaskGroup() as group:
            cold = [group.create_task(_victim(self.pool, {"n": n, "sleep": 0.3})) for n in range(3)]
        if [each.result() for each in cold] != [[n, True] for n in range(3)]:
            return False
        for _ in range(TRIES):
            slowest_s = await _warm(self.pool, self.rounds)
            if slowest_s is None:
                return False
            if slowest_s <= max(TIMES * self.victim_s, FLOOR_S):
                return True
        return False

    async def unharmed_during(self, event: Any = True) -> bool:
        """The same while the other is at it."""
        async with asyncio.TaskGroup() as group:
            attack = group.create_task(self.attack(event))
            while not attack.done():
                slowest_s = await _warm(self.pool, self.rounds)
                if slowest_s is None or slowest_s > max(TIMES * self.victim_s, FLOOR_S):
                    return False
        return True


@asynccontextmanager
async def pair(
    driver: str, folder: Path, code: str, needs: str = "", *, rounds: int = ROUNDS, **spec: Any
) -> AsyncIterator[Pair]:
    """`code` is that of the one that takes; `needs` the body of a function: does the victim have its own?"""
    body = needs or "return True"
    needed = "def needs():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    specs = {
        "evil": _function(folder, "evil", code, **spec),
        "victim": _function(folder, "victim", VICTIM.format(needs=needed)),
    }
    sandbox = load_plugin("sandboxes", driver)(folder / "sandboxes")
    await sandbox.start()
    ledger = ConcurrencyLedger(CONCURRENCY, [*specs.values()])
    logs = FunctionLogs(folder / "logs")
    pool = RuntimePool(specs, sandbox, ledger, logs, SystemClock(), freeze_after_s=FREEZE_S)
    try:
        async with pool:
            first = await _victim(pool, {"n": 0})
            assert first == [0, True], first  # it is alone
            alone_s = await _warm(pool, rounds)
            assert alone_s is not None
            yield Pair(pool, alone_s, rounds)
    finally:
        await sandbox.aclose()


async def _warm(pool: RuntimePool, rounds: int) -> float | None:
    """The slowest of its warm invocations but one. None: one was wrong."""
    taken_s: list[float] = []
    for number in range(rounds):
        begun_at = time.perf_counter()
        answer = await _victim(pool, {"n": number})
        taken_s.append(time.perf_counter() - begun_at)
        if answer != [number, True]:
            return None
    return sorted(taken_s)[-min(2, rounds)]


async def _victim(pool: RuntimePool, event: Any) -> Any:
    outcome = await pool.invoke("victim", msgspec.json.encode(event))
    return msgspec.json.decode(outcome.payload) if isinstance(outcome, Success) else outcome


def _function(folder: Path, name: str, code: str, **spec: Any) -> FunctionSpec:
    (folder / name).mkdir()
    (folder / name / f"{name}.py").write_text(code, encoding="utf-8")
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    wanted: dict[str, Any] = {"timeout_s": 30.0, **spec}
    return FunctionSpec(name, arn, f"{name}.handle", folder / name, **wanted)
