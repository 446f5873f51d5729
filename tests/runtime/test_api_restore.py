"""Restores over the Runtime API: its order of calls, and awslambdaric as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from millstream.contract.functions import FunctionFailed, Success
from millstream.runtime.api.runtime import VERSION, RuntimeApi
from millstream.runtime.link import Broken
from tests.runtime.conftest import MakeRuntime
from tests.runtime.test_api_runtime import ID, RUNTIME, Connection, Side, side
from tests.runtime.test_runtime_api import of_ric
from tests.runtime.test_snapshots import HOOKED, HOOKS, lines, loaded

__all__ = ["side"]

ERROR = b'{"errorMessage":"no","errorType":"Own","stackTrace":["x"]}'


@asynccontextmanager
async def waiting(side: Side) -> AsyncIterator[Connection]:
    """A runtime that waits to be restored."""
    allow(side)
    runtime = await side.connect()
    runtime.ask("GET", f"{RUNTIME}/restore/next")
    assert await side.api.loaded() is None
    assert side.api.snapshot
    assert not side.api.waiting
    yield runtime


def allow(side: Side) -> None:
    side.api = RuntimeApi("arn:f", snapshots=True)
    side.server.services[VERSION] = side.api


async def restored(side: Side) -> bytes | Broken | None:
    try:
        return await side.api.restore()
    except Broken as broken:
        return broken


async def test_a_runtime_is_answered_when_it_is_restored_and_then_takes_work(side: Side) -> None:
    async with waiting(side) as runtime, asyncio.TaskGroup() as group:
        restoring = group.create_task(restored(side))
        assert (await runtime.answer())[0] == 200
        assert not side.api.snapshot
        runtime.ask("GET", f"{RUNTIME}/invocation/next")
        assert await restoring is None
        outcome = group.create_task(side.run())
        assert (await runtime.answer())[2] == b'{"a":1}'
        assert (await runtime.asked("POST", f"{RUNTIME}/invocation/{ID}/response", b"2"))[0] == 202
        assert await outcome == Success(b"2", ID)


async def test_an_error_of_a_hook_after_the_restore_has_its_kind(side: Side) -> None:
    async with waiting(side) as runtime, asyncio.TaskGroup() as group:
        restoring = group.create_task(restored(side))
        await runtime.answer()
        header = "Lambda-Runtime-Function-Error-Type: Runtime.AfterRestoreError"
        assert (await runtime.asked("POST", f"{RUNTIME}/restore/error", ERROR, header))[0] == 202
        document = await restoring
        assert isinstance(document, bytes)
        assert msgspec.json.decode(document) == {
            "errorMessage": "Own: no",
            "errorType": "Runtime.AfterRestoreError",
            "stackTrace": ["x"],
        }
        assert (await runtime.asked("POST", f"{RUNTIME}/restore/error", ERROR))[0] == 403


async def test_an_error_of_a_hook_before_the_snapshot_has_its_kind(side: Side) -> None:
    allow(side)
    runtime = await side.connect()
    header = "Lambda-Runtime-Function-Error-Type: Runtime.BeforeSnapshotError"
    assert (await runtime.asked("POST", f"{RUNTIME}/init/error", b"no json", header))[0] == 202
    document = await side.api.loaded()
    assert document is not None
    assert msgspec.json.decode(document)["errorType"] == "Runtime.BeforeSnapshotError"
    assert (await runtime.asked("GET", f"{RUNTIME}/restore/next"))[0] == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "restore/next"), ("GET", "invocation/next"), ("POST", "restore/error"), ("POST", "init/error")],
)
async def test_a_runtime_that_waits_to_be_restored_may_ask_nothing_else(
    side: Side, method: str, path: str
) -> None:
    async with waiting(side):
        another = await side.connect()
        assert (await another.asked(method, f"{RUNTIME}/{path}", ERROR if method == "POST" else b""))[
            0
        ] == 403
        assert side.api.snapshot


async def test_a_runtime_that_runs_is_not_restored(side: Side) -> None:
    allow(side)
    async with side.running() as (runtime, _):
        assert (await runtime.asked("GET", f"{RUNTIME}/restore/next"))[0] == 403
        assert (await runtime.asked("POST", f"{RUNTIME}/restore/error", ERROR))[0] == 403


async def test_without_snapshots_nothing_is_restored(side: Side) -> None:
    runtime = await side.connect()
    assert (await runtime.asked("GET", f"{RUNTIME}/restore/next"))[0] == 403


async def test_a_runtime_that_ends_is_not_restored(side: Side) -> None:
    async with waiting(side):
        side.api.end(1)
        assert not side.api.snapshot
        assert isinstance(await restored(side), Broken)


async def test_a_runtime_may_end_while_it_is_restored(side: Side) -> None:
    async with waiting(side) as runtime, asyncio.TaskGroup() as group:
        restoring = group.create_task(restored(side))
        await runtime.answer()
        side.api.end(1)
        assert isinstance(await restoring, Broken)


@pytest.mark.broker
async def test_awslambdaric_is_restored_once_in_an_environment(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, HOOKED, snap_start=True, reserved_concurrency=1, **of_ric()) as it:
        await loaded(it)
        assert lines(it, "INIT_REPORT", "RESTORE_START") == ["INIT_REPORT"]
        assert (await it.answer())["notes"] == HOOKS
        assert (await it.answer())["notes"] == [*HOOKS, "call"]
        assert lines(it, "RESTORE_START", "RESTORE_REPORT") == ["RESTORE_START", "RESTORE_REPORT"]
        assert "Restore Duration" in it.log()
        assert isinstance(await it.invoke("exit"), FunctionFailed)
        assert (await it.answer())["notes"] == [*HOOKS, "call", "call", *HOOKS]


@pytest.mark.broker
@pytest.mark.parametrize(
    ("hook", "kind"),
    [("before_snapshot", "Runtime.BeforeSnapshotError"), ("after_restore", "Runtime.AfterRestoreError")],
)
async def test_hooks_fail_alike_with_our_bootstrap_and_with_awslambdaric(
    runtime: MakeRuntime, hook: str, kind: str
) -> None:
    code = HOOKED + f"def bad():\n    raise ValueError('no')\nregister_{hook}(bad)\n"
    found = []
    for spec in ({"timeout_s": 10.0}, of_ric()):
        async with runtime("bwrap", code, snap_start=True, **spec) as it:
            error = await it.error()
            found.append((error["errorType"], error["errorMessage"], error["stackTrace"][-1]))
    assert found[0] == found[1]
    assert found[0][:2] == (kind, "ValueError: no")


@pytest.mark.broker
async def test_a_runtime_that_never_asks_to_be_restored_runs_as_any_other(runtime: MakeRuntime) -> None:
    spec = of_ric()
    spec["environment"] = {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"}
    async with runtime("bwrap", HOOKED, snap_start=True, reserved_concurrency=1, **spec) as it:
        wrapper = it.log_file.parent.parent / "code" / "wrapper"
        wrapper.write_text('#!/bin/sh\nunset AWS_LAMBDA_INITIALIZATION_TYPE\nexec "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        await loaded(it)
        assert (await it.answer())["notes"] == ["import", "call"]
        assert lines(it, "RESTORE_START") == []
