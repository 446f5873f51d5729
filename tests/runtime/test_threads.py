"""A function has a thousand threads whatever its memory, and no more memory for it."""

from __future__ import annotations

import sys

import pytest

from millstream.runtime.sandboxes import bwrap
from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.drivers import driver

__all__ = ["driver", "runtime"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's"),
]

CODE = """
import threading
from concurrent.futures import ThreadPoolExecutor

def handle(wanted, context):
    if wanted == "memory":
        return len(bytearray(400 << 20))
    barrier = threading.Barrier(1000)
    with ThreadPoolExecutor(1000) as pool:
        return len([*pool.map(lambda number: barrier.wait(25), range(1000))])
"""


async def run(runtime: MakeRuntime, driver: str) -> None:
    async with runtime(driver, CODE, timeout_s=30.0, memory_size_mb=128) as it:
        assert await it.answer("threads") == 1000
        assert (await it.error("memory"))["errorType"] == "MemoryError"


async def test_a_thousand_threads_run_at_once(runtime: MakeRuntime, driver: str) -> None:
    await run(runtime, driver)


async def test_they_do_where_no_cgroup_may_be_used(
    runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bwrap, "find_groups", lambda **_: None)
    await run(runtime, "bwrap")
