"""Functions with `snap_start`: loaded once in an environment, and restored for each runtime.

Sources: AWS, "Improving startup performance with Lambda SnapStart", "Lambda SnapStart runtime hooks".
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import snapshot_restore_py

from millstream.contract.functions import FunctionFailed, LoggingConfig
from millstream.runtime import restoring
from tests.runtime.conftest import MakeRuntime, Runtime
from tests.runtime.shell_programs import MakeLayer, heard, layer, reasons
from tests.runtime.test_extensions import INTERNAL

__all__ = ["layer"]

pytestmark = pytest.mark.broker

NOTED = """
import os, tempfile, time
def note(what):
    with open(os.path.join(tempfile.gettempdir(), "notes"), "a") as file:
        file.write(what + " ")
def notes():
    with open(os.path.join(tempfile.gettempdir(), "notes")) as file:
        return file.read().split()
note("import")
seen = 0
def handle(event, context):
    global seen
    seen += 1
    note("call")
    if event == "hang":
        time.sleep(60)
    if event == "exit":
        os._exit(7)
    return {"notes": notes(), "seen": seen}
"""

HOOKED = (
    NOTED
    + """
from snapshot_restore_py import register_after_restore, register_before_snapshot
register_before_snapshot(note, "before1")
@register_before_snapshot
def second():
    note("before2")
register_after_restore(note, what="after1")
@register_after_restore
def fourth():
    note("after2")
"""
)

HOOKS = ["import", "before2", "before1", "after1", "after2", "call"]


async def until(there: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not there():
            await asyncio.sleep(0.01)


async def loaded(it: Runtime) -> None:
    await until(lambda: it.pool.idle("f") == 1)


def lines(it: Runtime, *names: str) -> list[str]:
    """The first words of the log's lines that are of these kinds."""
    texts = [line.split(" ", 2)[2] for line in it.log().splitlines()]
    return [text.split(" ")[0] for text in texts if text.split(" ")[0] in names]


async def test_a_function_is_loaded_once_ahead_of_its_invocations(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, NOTED, timeout_s=10.0, snap_start=True) as it:
        await loaded(it)
        assert lines(it, "INIT_REPORT", "RESTORE_START", "START") == ["INIT_REPORT"]
        assert (await it.answer())["notes"] == ["import", "call"]
        assert await it.answer() == {"notes": ["import", "call", "call"], "seen": 2}


@pytest.mark.parametrize("event", ["hang", "exit"])
async def test_a_reset_loads_nothing_again_and_keeps_files(runtime: MakeRuntime, event: str) -> None:
    async with runtime("bwrap", NOTED, timeout_s=1.0, snap_start=True) as it:
        for calls in (1, 3, 5):
            assert await it.answer() == {"notes": ["import"] + ["call"] * calls, "seen": 1}
            assert isinstance(await it.invoke(event), FunctionFailed)


async def test_hooks_run_in_their_order_and_after_each_restore(runtime: MakeRuntime) -> None:
    async with runtime("bwrap", HOOKED, timeout_s=10.0, snap_start=True) as it:
        assert (await it.answer())["notes"] == HOOKS
        assert isinstance(await it.invoke("exit"), FunctionFailed)
        assert (await it.answer())["notes"] == [*HOOKS, "call", "after1", "after2", "call"]


async def test_hooks_run_without_a_supervisor_too(runtime: MakeRuntime) -> None:
    async with runtime("process", HOOKED, timeout_s=10.0, snap_start=True) as it:
        assert (await it.answer())["notes"] == HOOKS
        assert isinstance(await it.invoke("exit"), FunctionFailed)
        assert (await it.answer())["notes"] == [*HOOKS, "call", *HOOKS]


async def test_without_snap_start_no_hook_runs(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, HOOKED, timeout_s=10.0) as it:
        assert (await it.answer())["notes"] == ["import", "call"]


async def test_the_published_package_is_used_where_a_function_brings_it(
    runtime: MakeRuntime, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    shutil.copy(snapshot_restore_py.__file__, tmp_path / "code")
    code = HOOKED.replace(
        '"notes": notes()', '"notes": [*notes(), sys.modules["snapshot_restore_py"].__file__]'
    )
    async with runtime("bwrap", "import sys\n" + code, timeout_s=10.0, snap_start=True) as it:
        *noted, file = (await it.answer())["notes"]
    assert noted == HOOKS
    assert file == "/var/task/snapshot_restore_py.py"


async def test_a_hook_that_fails_before_the_snapshot_fails_the_init_phase(
    driver: str, runtime: MakeRuntime
) -> None:
    code = HOOKED + "register_before_snapshot(lambda: 1 / 0)\n"
    async with runtime(driver, code, timeout_s=10.0, snap_start=True) as it:
        error = await it.error()
        log = it.log()
    assert error["errorType"] == "Runtime.BeforeSnapshotError"
    assert error["errorMessage"] == "ZeroDivisionError: division by zero"
    assert "lambda" in error["stackTrace"][-1]
    assert "[ERROR] Runtime.BeforeSnapshotError: ZeroDivisionError: division by zero" in log
    assert "Phase: init\tStatus: error\tError Type: Runtime.BeforeSnapshotError" in log


async def test_a_hook_that_fails_after_a_restore_fails_the_invocation_that_needed_it(
    driver: str, runtime: MakeRuntime
) -> None:
    code = (
        HOOKED + "@register_after_restore\ndef last():\n    if notes().count('after2') == 1:\n        1 / 0\n"
    )
    async with runtime(driver, code, timeout_s=10.0, snap_start=True, concurrency=1) as it:
        error = await it.error()
        log = it.log()
        assert (await it.answer())["notes"] == [*HOOKS[:-1], *HOOKS]
    assert error["errorType"] == "Runtime.AfterRestoreError"
    assert error["errorMessage"] == "ZeroDivisionError: division by zero"
    assert re.search(
        r"RESTORE_REPORT Restore Duration: \S+ ms\tStatus: error\tError Type: Runtime.AfterRestoreError", log
    )
    assert "START RequestId" not in log


async def test_a_hook_that_exits_after_a_restore_is_reported(driver: str, runtime: MakeRuntime) -> None:
    code = HOOKED + "register_after_restore(os._exit, 1)\n"
    async with runtime(driver, code, timeout_s=10.0, snap_start=True) as it:
        assert (await it.error())["errorType"] == "Runtime.ExitError"


async def test_a_restore_that_takes_too_long_is_ended(
    driver: str, runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "RESTORE_S", 0.5)
    code = HOOKED + "register_after_restore(time.sleep, 60)\n"
    async with runtime(driver, code, timeout_s=10.0, snap_start=True) as it:
        error = await it.error()
        log = it.log()
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"].endswith("Error: Task timed out after 0.50 seconds")
    assert "ms\tStatus: timeout" in log


KILLER = "import os\nloaded_by = os.getpid()\n" + NOTED.replace(
    "    return {",
    """    if event:
        os.kill(loaded_by, event)
        note("signalled")
        os._exit(1)
    return {""",
)


async def test_a_snapshot_that_the_function_kills_is_made_again(
    runtime: MakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async with runtime("bwrap", KILLER, timeout_s=10.0, snap_start=True) as it:
        with caplog.at_level(logging.WARNING):
            await it.answer()
            assert isinstance(await it.invoke(9), FunctionFailed)
            expected = ["import", "call", "call", "signalled", "import", "call"]
            assert await it.answer() == {"notes": expected, "seen": 1}
            assert isinstance(await it.invoke("exit"), FunctionFailed)
            assert (await it.answer())["notes"] == [*expected, "call", "call"]
    assert [record.message for record in caplog.records] == ["snapshot lost, the function is loaded again"]


async def test_a_snapshot_that_the_function_stops_is_restored_from(runtime: MakeRuntime) -> None:
    async with runtime("bwrap", KILLER, timeout_s=10.0, snap_start=True) as it:
        await it.answer()
        assert isinstance(await it.invoke(19), FunctionFailed)
        assert (await it.answer())["notes"] == ["import", "call", "call", "signalled", "call"]


async def test_what_is_left_running_ends_with_a_reset_but_for_the_snapshot(runtime: MakeRuntime) -> None:
    code = (
        "import os, time\nloaded_by = os.getpid()\ndef handle(e, c):\n"
        "    if e is None:\n"
        "        left = open('/tmp/left').read().split() if os.path.exists('/tmp/left') else []\n"
        "        there = [pid for pid in left if os.path.exists(f'/proc/{pid}')]\n"
        "        return [len(left), there, loaded_by, os.path.exists(f'/proc/{loaded_by}')]\n"
        "    if os.fork() == 0:\n        os.setsid()\n        if os.fork():\n            os._exit(0)\n"
        "        open('/tmp/left', 'a').write(f'{os.getpid()} ')\n        time.sleep(60)\n"
        "    while not os.path.exists('/tmp/left'):\n        time.sleep(.01)\n"
        "    os._exit(1)\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        _, _, loaded_by, _ = await it.answer()
        for resets in range(1, 4):
            await it.error("go")
            left, *found = await it.answer()
            assert found == [[], loaded_by, True]
            assert 1 <= left <= resets


async def test_invocations_at_once_have_random_numbers_of_their_own(runtime: MakeRuntime) -> None:
    code = (
        "import random, time, uuid\nstate = random.Random()\n"
        "def handle(e, c):\n    time.sleep(.2)\n    return [random.random(), str(uuid.uuid4())]\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        await loaded(it)
        found = await asyncio.gather(*(it.answer() for _ in range(3)))
    for several in zip(*found, strict=True):
        assert len(set(several)) == 3


async def test_the_spare_is_taken_and_another_is_loaded(runtime: MakeRuntime) -> None:
    code = (
        "import os, time\ndef handle(e, c):\n    time.sleep(e)\n"
        "    return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        await loaded(it)
        assert await it.answer(0) == "snap-start"
        await until(lambda: it.pool.idle("f") == 2)
        assert lines(it, "INIT_START", "RESTORE_START") == ["INIT_START", "RESTORE_START", "INIT_START"]
        await asyncio.gather(it.answer(0.3), it.answer(0.3))
        assert lines(it, "RESTORE_START") == ["RESTORE_START"] * 2


async def test_a_frozen_spare_is_thawed_and_restored(runtime: MakeRuntime) -> None:
    async with runtime("bwrap", NOTED, timeout_s=10.0, snap_start=True) as it:
        await until(lambda: it.pool.state()[0].frozen == 1)
        assert (await it.answer())["seen"] == 1
        await until(lambda: it.pool.state()[0].frozen == 2)
        assert isinstance(await it.invoke("exit"), FunctionFailed)
        assert (await it.answer())["seen"] == 1


@pytest.mark.parametrize("with_threads", [True, False])
async def test_what_cannot_be_forked_goes_on_itself(runtime: MakeRuntime, with_threads: bool) -> None:
    thread = (
        "import threading\nbeat = threading.Event()\n"
        "threading.Thread(target=beat.wait, daemon=True).start()\n"
    )
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n"
    alive = "threading.active_count() == 2" if with_threads else "child.poll() is None"
    code = (thread if with_threads else child) + HOOKED.replace('"seen": seen', f'"seen": {alive}')
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        assert await it.answer() == {"notes": HOOKS, "seen": True}
        assert isinstance(await it.invoke("exit"), FunctionFailed)
        assert await it.answer() == {"notes": [*HOOKS, "call", *HOOKS], "seen": True}


async def test_what_is_printed_before_the_snapshot_is_logged_once(driver: str, runtime: MakeRuntime) -> None:
    code = "import os\nprint('early', end=' ')\ndef handle(e, c):\n    print('late')\n    e and os._exit(1)\n"
    async with runtime(driver, code, timeout_s=10.0, snap_start=True, reserved_concurrency=1) as it:
        await loaded(it)
        await it.answer()
        log = it.log()
    assert (log.count("early"), log.count("late")) == (1, 1)


REPORT = re.compile(
    r"REPORT RequestId: \S+\tDuration: (\S+) ms\tBilled Duration: (\d+) ms\tMemory Size: 128 MB\t"
    r"Max Memory Used: [1-9]\d* MB\tRestore Duration: (\S+) ms\tBilled Restore Duration: (\d+) ms\t$",
    re.MULTILINE,
)


async def test_restores_are_in_the_log_and_in_the_report_after_them(
    driver: str, runtime: MakeRuntime
) -> None:
    async with runtime(driver, NOTED, timeout_s=10.0, snap_start=True, reserved_concurrency=1) as it:
        await loaded(it)
        await it.answer()
        await it.answer()
        log = it.log()
    kinds = ["INIT_START", "INIT_REPORT", "RESTORE_START", "RESTORE_REPORT", "START", "REPORT"]
    assert lines(it, *kinds) == [*kinds, "START", "REPORT"]
    assert "RESTORE_START Runtime Version: python3.11" in log
    (report,) = REPORT.findall(log)
    duration, billed, restore, billed_restore = map(float, report)
    assert billed_restore - 1 < restore <= billed_restore
    assert billed_restore + duration <= billed < billed_restore + duration + 1
    assert "Init Duration" not in "".join(line for line in log.splitlines() if "RequestId" in line)


async def test_restores_are_records_with_json(runtime: MakeRuntime) -> None:
    config = LoggingConfig("JSON", system_log_level="DEBUG")
    async with runtime(
        "bwrap", NOTED, timeout_s=10.0, snap_start=True, reserved_concurrency=1, logging=config
    ) as it:
        await loaded(it)
        await it.answer()
        log = it.log()
    records = [json.loads(line.split(" ", 2)[2]) for line in log.splitlines()]
    found = {record["type"]: record["record"] for record in records}
    assert list(found) == [
        f"platform.{kind}"
        for kind in (
            "initStart", "initRuntimeDone", "initReport",
            "restoreStart", "restoreRuntimeDone", "restoreReport",
            "start", "runtimeDone", "report",
        )
    ]  # fmt: skip
    assert found["platform.initStart"]["initializationType"] == "snap-start"
    assert found["platform.restoreRuntimeDone"] == {"status": "success"}
    assert found["platform.restoreReport"]["metrics"]["durationMs"] > 0
    metrics = found["platform.report"]["metrics"]
    assert metrics["restoreDurationMs"] <= metrics["billedRestoreDurationMs"]
    assert "initDurationMs" not in metrics


async def test_the_names_of_the_log_are_not_told(runtime: MakeRuntime) -> None:
    code = (
        "import os\ndef handle(e, c):\n"
        "    names = [name for name in os.environ if 'LAMBDA_LOG' in name]\n"
        "    return [*names, c.log_group_name, c.log_stream_name]\n"
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        assert await it.answer() == [None, None]


async def test_extensions_start_again_with_a_reset_and_the_function_with_them(
    runtime: MakeRuntime, layer: MakeLayer
) -> None:
    one = {"timeout_s": 10.0, "snap_start": True, "reserved_concurrency": 1}
    async with runtime("bwrap", HOOKED, opt=layer(seer={}), **one) as it:
        await loaded(it)
        assert (await it.answer())["notes"] == HOOKS
        await loaded(it)
        assert isinstance(await it.invoke("exit"), FunctionFailed)
        await loaded(it)
        assert (await it.answer())["notes"] == [*HOOKS, "call", *HOOKS]
    log = it.log()
    assert reasons(log, "seer") == ["FAILURE", "SPINDOWN"]
    assert [event["eventType"] for event in heard(log, "seer")].count("INVOKE") == 3


async def test_an_internal_extension_lives_through_the_restore(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, INTERNAL, timeout_s=10.0, snap_start=True, reserved_concurrency=1) as it:
        await loaded(it)
        for _ in range(2):
            assert await it.answer() == [403, "Extension.RegistrationClosed"]
    assert [event["eventType"] for event in heard(it.log(), "inside")] == ["INVOKE"] * 2


async def test_nobody_may_register_after_a_reset(runtime: MakeRuntime) -> None:
    code = INTERNAL.partition("headers, about")[0] + "def handle" + INTERNAL.partition("def handle")[2]
    code = code.replace("    try:", "    if event:\n        os._exit(1)\n    try:").replace(
        "request\n", "request, urllib.error\n", 1
    )
    async with runtime("bwrap", code, timeout_s=10.0, snap_start=True) as it:
        for event in (None, "exit", None):
            outcome = await it.invoke(event)
            if event is None:
                assert await it.answer() == [403, "Extension.RegistrationClosed"], outcome
        assert lines(it, "INIT_REPORT", "RESTORE_START").count("RESTORE_START") == 2
