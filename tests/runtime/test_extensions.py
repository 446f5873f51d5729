"""Extensions in the life cycle of environments, on every driver; they are shell scripts.

Sources: AWS, "Using the Lambda Extensions API to create extensions", "Understanding the Lambda execution
environment lifecycle".
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable

import pytest

from millstream.contract.functions import FunctionFailed
from tests.runtime.conftest import MakeRuntime
from tests.runtime.shell_programs import MakeLayer, heard, layer, reasons

__all__ = ["layer"]

pytestmark = pytest.mark.broker

ECHO = "def handle(event, context):\n    return event\n"


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not there():
            await asyncio.sleep(0.01)


async def test_an_extension_hears_of_invocations_and_of_the_end(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, ECHO, opt=layer(seer={})) as it:
        assert await it.answer(1) == 1
        assert await it.answer(2) == 2
    log = it.log()
    first, second, last = heard(log, "seer")
    ids = re.findall(r"START RequestId: (\S+)", log)
    assert [first["requestId"], second["requestId"]] == ids
    assert first["invokedFunctionArn"].endswith(":function:f")
    assert first["tracing"]["value"].startswith("Root=1-")
    assert abs(first["deadlineMs"] / 1000 - 3.0 - time.time()) < 30
    assert (last["eventType"], last["shutdownReason"]) == ("SHUTDOWN", "SPINDOWN")
    assert "EXTENSION\tName: seer\tState: Ready\tEvents: [INVOKE, SHUTDOWN]" in log


async def test_the_runtime_starts_after_extensions_have_registered(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    code = f"print('loading')\n{ECHO}"
    slow = {"before": "sleep 0.3; echo registers"}
    async with runtime(driver, code, opt=layer(slow=slow)) as it:
        await it.answer()
        log = it.log()
    assert log.index("registers") < log.index("loading")


SLOW = "import os, time\ndef handle(event, context):\n    return time.time(), context.log_stream_name\n"


async def test_a_slow_extension_holds_its_environment_and_not_the_caller(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, SLOW, opt=layer(slow={"invoke": "sleep 1"}), timeout_s=5.0) as it:
        at, one = await it.answer()
        assert time.time() - at < 0.5
        _, other = await it.answer()
        assert other != one
        await until(lambda: it.pool.idle("f") == 2)
        log = it.log()
    durations = re.findall(r"REPORT .*\tDuration: ([\d.]+) ms", log)
    assert all(float(duration) >= 1000 for duration in durations)
    assert len(durations) == 2


async def test_an_environment_that_is_held_for_a_moment_takes_the_next_invocation(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, SLOW, opt=layer(quick={}), timeout_s=5.0) as it:
        assert len({(await it.answer())[1] for _ in range(20)}) == 1


async def test_an_extension_that_does_not_come_back_is_a_timeout_and_resets(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    code = "seen = 0\ndef handle(event, context):\n    global seen\n    seen += 1\n    return seen\n"
    opt = layer(good={}, stuck={"invoke": "sleep 60"})
    async with runtime(driver, code, opt=opt, timeout_s=1.0) as it:
        assert await it.answer() == 1
        await until(lambda: "Status: timeout" in it.log())
        assert await it.answer() == 1
    log = it.log()
    assert reasons(log, "good") == ["TIMEOUT", "TIMEOUT"]  # the second of them when it is closed
    assert reasons(log, "stuck") == []


@pytest.mark.parametrize(("event", "reason"), [("hang", "TIMEOUT"), ("exit", "FAILURE")])
async def test_a_failure_shuts_extensions_down_with_its_reason(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, event: str, reason: str
) -> None:
    code = (
        "import os, time\ndef handle(event, context):\n"
        "    if event == 'hang':\n        time.sleep(60)\n    if event == 'exit':\n        os._exit(1)\n"
    )
    async with runtime(driver, code, opt=layer(seer={}), timeout_s=1.0) as it:
        assert isinstance(await it.invoke(event), FunctionFailed)
        assert await it.answer() is None
    log = it.log()
    assert reasons(log, "seer") == [reason, "SPINDOWN"]
    assert log.count("seer heard") == 4


async def test_a_shutdown_ends_after_two_seconds(driver: str, runtime: MakeRuntime, layer: MakeLayer) -> None:
    async with runtime(driver, ECHO, opt=layer(slow={"shutdown": "sleep 60; echo never"})) as it:
        await it.answer()
        began_at = time.monotonic()
    took_s = time.monotonic() - began_at
    assert 2.0 <= took_s < 4.0
    assert "never" not in it.log()


async def test_the_shutdown_after_a_failed_init_takes_no_time_of_the_invocation(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    code = "raise ValueError('no')\n"
    async with runtime(driver, code, opt=layer(slow={"shutdown": "sleep 1.2"}), timeout_s=1.0) as it:
        assert (await it.error())["errorType"] == "ValueError"
    assert reasons(it.log(), "slow")[:2] == ["FAILURE", "FAILURE"]


async def test_an_extension_that_ends_fails_the_invocation(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    code = "import time\ndef handle(event, context):\n    time.sleep(event)\n    return event\n"
    async with runtime(driver, code, opt=layer(weak={"invoke": "sleep 0.2; exit 3"}), timeout_s=10.0) as it:
        error = await it.error(5)
        assert error["errorType"] == "Extension.Crash"
        assert re.fullmatch(r"RequestId: \S+ Error: exit status 3", error["errorMessage"])
        assert await it.answer(0) == 0
        log = it.log()
    assert "Status: failure\tError Type: Extension.Crash" in log
    assert log.count("EXTENSION\tName: weak\tState: Ready") == 2


async def test_an_extension_that_ends_behind_the_answer_resets(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    code = "seen = 0\ndef handle(event, context):\n    global seen\n    seen += 1\n    return seen\n"
    opt = layer(good={}, weak={"invoke": "sleep 0.3; exit 3"})
    async with runtime(driver, code, opt=opt, timeout_s=10.0) as it:
        assert await it.answer() == 1
        await until(lambda: "Status: failure\tError Type: Extension.Crash" in it.log())
        assert await it.answer() == 1
    assert reasons(it.log(), "good")[0] == "FAILURE"


async def test_an_environment_is_not_frozen_while_an_extension_works(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    opt = layer(slow={"invoke": "sleep 0.5; echo worked"})
    async with runtime(driver, ECHO, opt=opt, timeout_s=10.0) as it:
        await it.answer()
        await until(lambda: "worked" in it.log())
        await until(lambda: "REPORT RequestId" in it.log())


async def test_a_frozen_environment_is_thawed_to_be_shut_down(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, ECHO, opt=layer(seer={}), timeout_s=10.0) as it:
        await it.answer()
        await until(lambda: bool(it.pool.state()[0].frozen))
    assert reasons(it.log(), "seer") == ["SPINDOWN"]


async def test_an_extension_that_never_registers_is_an_init_that_takes_too_long(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.runtime.environment.INIT_S", 0.5)
    async with runtime(driver, ECHO, opt=layer(mute={"before": "sleep 60"}), timeout_s=1.0) as it:
        assert (await it.error())["errorType"] == "Sandbox.Timedout"
        log = it.log()
    assert "Phase: init\tStatus: timeout" in log
    assert "Phase: invoke\tStatus: timeout" in log


async def test_an_extension_that_cannot_start_fails_the_init_and_then_the_invocation(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, ECHO, opt=layer(none={"before": "exit 1"}), timeout_s=5.0) as it:
        error = await it.error(1)
        log = it.log()
    assert error["errorType"] == "Extension.Crash"
    assert "EXTENSION\tName: none\tState: Crash\tEvents: []\tError Type: Extension.Crash" in log
    assert "Phase: init\tStatus: failure\tError Type: Extension.Crash" in log


@pytest.mark.parametrize(
    ("phase", "kind"), [("init", "Extension.InitError"), ("exit", "Extension.ExitError")]
)
async def test_an_extension_may_say_why_it_ends(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, phase: str, kind: str
) -> None:
    says = (
        f'curl -sS "$api/{phase}/error" -H "Lambda-Extension-Identifier: $id" '
        "-H 'Lambda-Extension-Function-Error-Type: Extension.Unwell' -d '{}'; exit 1"
    )
    async with runtime(driver, ECHO, opt=layer(weak={"registered": says}), timeout_s=5.0) as it:
        assert (await it.error(1))["errorType"] == kind


async def test_an_extension_that_only_starts_takes_part_in_no_invocation(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    async with runtime(driver, ECHO, opt=layer(once={"events": ""})) as it:
        assert await it.answer(1) == 1
        assert await it.answer(2) == 2
    log = it.log()
    assert heard(log, "once") == []
    assert "EXTENSION\tName: once\tState: Ready\tEvents: []" in log


async def test_an_eleventh_extension_is_refused(driver: str, runtime: MakeRuntime, layer: MakeLayer) -> None:
    check = {"registered": 'test -n "$id" || exit 9'}
    ten = layer(**{f"e{number:02}": check for number in range(10)})
    async with runtime(driver, ECHO, opt=ten, timeout_s=20.0, memory_size_mb=512) as it:
        assert await it.answer(1) == 1
    (ten / "extensions" / "e10").write_bytes((ten / "extensions" / "e09").read_bytes())
    (ten / "extensions" / "e10").chmod(0o755)
    async with runtime(driver, ECHO, opt=ten, timeout_s=20.0, memory_size_mb=512) as it:
        error = await it.error(1)
    assert (error["errorType"], error["errorMessage"][-13:]) == ("Extension.Crash", "exit status 9")


async def test_extensions_are_given_their_own_part_of_the_variables(
    driver: str, runtime: MakeRuntime, layer: MakeLayer
) -> None:
    shows = {
        "before": 'echo "given=$MINE,$AWS_LAMBDA_FUNCTION_NAME,$_HANDLER,$AWS_EXECUTION_ENV,$AWS_REGION"'
    }
    async with runtime(driver, ECHO, opt=layer(shows=shows), environment={"MINE": "1"}) as it:
        await it.answer()
        log = it.log()
    assert "given=1,f,,,us-east-1" in log


INTERNAL = """
import json, os, signal, threading, time, urllib.request
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2020-01-01/extension"
def ask(path, body=None, **headers):
    request = urllib.request.Request(f"{api}/{path}", body, headers)
    with urllib.request.urlopen(request) as reply:
        return reply.headers, reply.read()
headers, about = ask("register", b'{"events":["INVOKE"]}',
    **{"Lambda-Extension-Name": "inside", "Lambda-Extension-Accept-Feature": "accountId"})
print("about", about.decode())
me = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
def watch():
    while True:
        event = ask("event/next", **me)[1].decode()
        time.sleep(0.3)  # what it does for an invocation takes longer than the answer
        print("inside heard", event)
threading.Thread(target=watch, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: (print("told to end", flush=True), os._exit(0)))
def handle(event, context):
    try:
        ask("register", b'{"events":[]}', **{"Lambda-Extension-Name": "late"})
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())["errorType"]]
"""


@pytest.mark.parametrize("beside", [True, False], ids=["beside an external one", "alone"])
async def test_a_runtime_registers_an_internal_extension_and_is_told_of_the_end(
    driver: str, runtime: MakeRuntime, layer: MakeLayer, beside: bool
) -> None:
    async with runtime(driver, INTERNAL, opt=layer(seer={}) if beside else None, timeout_s=10.0) as it:
        assert await it.answer() == [403, "Extension.RegistrationClosed"]
    log = it.log()
    about = {
        "functionName": "f",
        "functionVersion": "$LATEST",
        "handler": "f.handle",
        "accountId": "000000000000",
    }
    assert f"about {json.dumps(about, separators=(',', ':'))}" in log
    assert [event["eventType"] for event in heard(log, "inside")] == ["INVOKE"]
    assert "EXTENSION\tName: inside\tState: Ready\tEvents: [INVOKE]" in log
    assert "told to end" in log


async def test_a_runtime_with_internal_extensions_alone_has_half_a_second_to_end(
    driver: str, runtime: MakeRuntime
) -> None:
    stays = INTERNAL.replace("os._exit(0)", "None")
    async with runtime(driver, stays, timeout_s=10.0) as it:
        await it.answer()
        began_at = time.monotonic()
    took_s = time.monotonic() - began_at
    assert "told to end" in it.log()
    assert 0.5 <= took_s < 1.7


async def test_a_runtime_without_extensions_is_not_waited_for(driver: str, runtime: MakeRuntime) -> None:
    code = f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('told'))\n{ECHO}"
    async with runtime(driver, code) as it:
        await it.answer()
        began_at = time.monotonic()
    took_s = time.monotonic() - began_at
    assert "told" not in it.log()
    assert took_s < 0.5
