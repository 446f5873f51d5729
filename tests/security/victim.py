"""Two functions of one daemon: one that takes what it can get, and one that must not notice."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
"""Warm invocations that are measured while nothing else happens."""

EVERY_S = 0.02
"""Pause between those that are measured during an attack: others must have a processor, too."""

CONCURRENCY = 1000
"""So many may run, and ten times as many begin in a second: more than are tried."""

TIMES, FLOOR_S = 3, 0.2
"""An attack may make the 99th percentile so many times higher, or as high as a busy machine does by itself:
what reaches its victim takes seconds from it, or all."""

TRIES = 3
"""A machine is busy with something else for a while; what a frozen attacker holds, it goes on to hold."""

FREEZE_S = 0.05
TURN_S = 0.005

VICTIM = """
import os, select, socket, time
{needs}
def handle(e, c):
    time.sleep(e.get("sleep", 0))
    return [e["n"], needs()]
"""


@dataclass
class Warm:
    """Warm invocations of the victim, one after the other."""

    took_s: list[float] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    """Outcomes that were not its answer, or an answer without what it needs."""

    @property
    def p99_s(self) -> float:
        """The 99th percentile, by nearest rank."""
        return sorted(self.took_s)[math.ceil(0.99 * len(self.took_s)) - 1]

    def unharmed(self, alone_s: float) -> bool:
        """All were right, and hardly slower than they were without an attack."""
        return not self.wrong and self.p99_s <= max(TIMES * alone_s, FLOOR_S)


@dataclass(frozen=True)
class Beside:
    """The outcome of an attack, and of the victim's invocations meanwhile."""

    answer: Any
    warm: Warm
    alone_s: float
    stood_still_s: float  # the loop, longest

    @property
    def unharmed(self) -> bool:
        """True if the victim has hardly noticed."""
        return self.warm.unharmed(self.alone_s)

    def __str__(self) -> str:
        took = f"{self.warm.p99_s:.3f} s of {len(self.warm.took_s)}, wrong: {self.warm.wrong[:3]}"
        return f"p99 {took}, alone {self.alone_s:.3f} s, loop stood {self.stood_still_s:.3f} s"


@dataclass
class Pair:
    """The pool with both; `alone_s` is the 99th percentile of the victim's warm invocations before it."""

    pool: RuntimePool
    alone_s: float
    rounds: int = ROUNDS

    async def attack(self, event: Any = True) -> Any:
        """Run the one that takes once, and return its answer."""
        outcome = await self.pool.invoke("evil", msgspec.json.encode(event))
        assert isinstance(outcome, Success), outcome
        return msgspec.json.decode(outcome.payload)

    async def during(self, event: Any = True) -> Beside:
        """Run it, and invoke the victim all the while."""
        warm = Warm()
        async with asyncio.TaskGroup() as group:
            attack = group.create_task(self.attack(event))
            stood = group.create_task(_longest_stall(attack))
            while not attack.done():
                await _invoke(self.pool, warm)
                await asyncio.sleep(EVERY_S)
        return Beside(attack.result(), warm, self.alone_s, stood.result())

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
            warm = await _warm(self.pool, self.rounds)
            if warm.wrong:
                return False
            if warm.unharmed(self.alone_s):
                return True
        return False


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
            alone = await _warm(pool, rounds)
            assert not alone.wrong, alone.wrong
            yield Pair(pool, alone.p99_s, rounds)
    finally:
        await sandbox.aclose()


async def _warm(pool: RuntimePool, rounds: int) -> Warm:
    warm = Warm()
    for _ in range(rounds):
        await _invoke(pool, warm)
    return warm


async def _invoke(pool: RuntimePool, warm: Warm) -> None:
    number = len(warm.took_s)
    begun_at = time.perf_counter()
    answer = await _victim(pool, {"n": number})
    warm.took_s.append(time.perf_counter() - begun_at)
    if answer != [number, True]:
        warm.wrong.append(answer)


async def _victim(pool: RuntimePool, event: Any) -> Any:
    outcome = await pool.invoke("victim", msgspec.json.encode(event))
    return msgspec.json.decode(outcome.payload) if isinstance(outcome, Success) else outcome


async def _longest_stall(while_running: asyncio.Task[Any]) -> float:
    """The longest time that the loop went without a turn."""
    longest_s, turned_at = 0.0, time.monotonic()
    while not while_running.done():
        await asyncio.sleep(TURN_S)
        now = time.monotonic()
        longest_s, turned_at = max(longest_s, now - turned_at), now
    return longest_s


def _function(folder: Path, name: str, code: str, **spec: Any) -> FunctionSpec:
    (folder / name).mkdir()
    (folder / name / f"{name}.py").write_text(code, encoding="utf-8")
    arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    wanted: dict[str, Any] = {"timeout_s": 30.0, **spec}
    return FunctionSpec(name, arn, f"{name}.handle", folder / name, **wanted)
