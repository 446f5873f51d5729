"""The first process of an environment: its name, what a function may try on it, and on a reset."""

from __future__ import annotations

import sys

import pytest

from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.attempts import TRY
from tests.security.drivers import driver

__all__ = ["driver", "runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes need Linux"),
]

sandboxes = pytest.mark.parametrize("driver", ["bwrap", "docker"], indirect=True)


@sandboxes
async def test_its_supervisor_survives_every_signal(runtime: MakeRuntime, driver: str) -> None:
    code = (
        "import os\ncalls = 0\ndef handle(e, c):\n    global calls\n    calls += 1\n"
        "    for number in range(1, 65):\n        attempt(lambda: os.kill(1, number))\n"
        "    return calls\n"
    )
    async with runtime(driver, TRY + code, timeout_s=10.0) as it:
        assert [await it.answer() for _ in range(10)] == [*range(1, 11)]


@sandboxes
async def test_what_left_its_session_ends_with_a_reset(runtime: MakeRuntime, driver: str) -> None:
    code = (
        "import os, time\ndef handle(e, c):\n"
        "    if e is None:\n        return sorted(p for p in os.listdir('/proc') if p.isdecimal())\n"
        "    if os.fork() == 0:\n        os.setsid()\n        if os.fork():\n            os._exit(0)\n"
        "        time.sleep(60)\n    os._exit(1)\n"
    )
    async with runtime(driver, code, timeout_s=10.0) as it:
        await it.error("go")
        assert len(await it.answer()) == 2


@sandboxes
async def test_the_hosts_ps_shows_the_functions_name(runtime: MakeRuntime, driver: str) -> None:
    code = "def handle(e, c):\n    return [open(f'/proc/{pid}/comm').read().strip() for pid in (1, 'self')]\n"
    async with runtime(driver, code, timeout_s=10.0) as it:
        assert await it.answer() == ["f", "f"]
