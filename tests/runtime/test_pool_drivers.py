"""The pool on real sandboxes: what is provisioned is initialised ahead."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from tests.runtime.conftest import MakeRuntime

pytestmark = pytest.mark.broker

WHEN = (
    "import os, time\nat = time.time()\n"
    "def handle(e, c):\n    return at, os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']\n"
)


async def test_what_is_provisioned_has_loaded_its_code_before_it_is_invoked(
    driver: str, runtime: MakeRuntime
) -> None:
    async with runtime(driver, WHEN, timeout_s=10.0, provisioned_concurrency=2) as it:
        async with asyncio.timeout(20.0):
            while it.pool.state()[0].provisioned_status != "READY":
                await asyncio.sleep(0.01)
        before = time.time()
        outcomes = await asyncio.gather(it.answer(), it.answer())
        assert all(at < before for at, _ in outcomes)
        assert len({at for at, _ in outcomes}) == 2
        assert {kind for _, kind in outcomes} == {"provisioned-concurrency"}
        state = it.pool.state()[0]
    assert (state.provisioned_ready, state.spillovers, state.invocations) == (2, 0, 2)
    assert state.held_mb > 0


async def test_code_that_cannot_be_loaded_is_a_failed_provision_and_a_failed_invocation(
    driver: str, runtime: MakeRuntime
) -> None:
    async with runtime(driver, "import nowhere\n", timeout_s=10.0, provisioned_concurrency=1) as it:
        async with asyncio.timeout(20.0):
            while it.pool.state()[0].provisioned_status != "FAILED":
                await asyncio.sleep(0.01)
        assert (await it.error())["errorType"] == "Runtime.ImportModuleError"


@pytest.mark.parametrize("wait_s", [n / 100 for n in range(10)])
async def test_a_first_cold_start_that_is_cut_off_keeps_no_sandbox_from_closing(
    runtime: MakeRuntime, wait_s: float
) -> None:
    async with asyncio.timeout(10.0), runtime("bwrap", WHEN, timeout_s=10.0) as it:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await it.answer()
