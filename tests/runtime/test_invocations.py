"""What a function sees and what its caller gets, on every driver."""

from __future__ import annotations

import asyncio
import os
import re
import resource
from pathlib import Path

import pytest

from millstream.contract.functions import MAX_PAYLOAD_BYTES, Success, Throttled, TooLarge
from tests.clock import VirtualClock
from tests.runtime.conftest import MakeRuntime

pytestmark = pytest.mark.broker

CONTEXT = """
def handle(event, context):
    return {
        "event": event,
        "name": context.function_name,
        "version": context.function_version,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "request": context.aws_request_id,
        "group": context.log_group_name,
        "left": context.get_remaining_time_in_millis(),
        "none": [context.identity.cognito_identity_id, context.client_context, context.tenant_id],
    }
"""


async def test_a_function_sees_its_event_and_context(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, CONTEXT, timeout_s=10.0) as it:
        seen = await it.answer({"ä": [1, None, "\U0001f600"]})
    assert seen["event"] == {"ä": [1, None, "\U0001f600"]}
    assert (seen["name"], seen["version"], seen["memory"]) == ("f", "$LATEST", "128")
    assert seen["arn"].endswith(":function:f")
    assert seen["group"] == "/aws/lambda/f"
    assert 9000 < seen["left"] <= 10_000
    assert len(seen["request"]) == 36
    assert seen["none"] == [None, None, None]


async def test_a_function_has_its_own_environment_variables_alone(
    driver: str, runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "s3cret")
    code = "import os\ndef handle(event, context):\n    return dict(os.environ)\n"
    async with runtime(driver, code, environment={"SIZE": "64"}) as it:
        seen = await it.answer()
    assert seen["SIZE"] == "64"
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "f"
    assert seen["_HANDLER"] == "f.handle"
    assert "DAEMON_SECRET" not in seen
    assert not any("s3cret" in value for value in seen.values())
    assert "AWS_SECRET_ACCESS_KEY" not in seen


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("def handle(e, c):\n    raise ValueError('no')\n", "ValueError", "no"),
        ("def handle(e, c):\n    return {1, 2}\n", "Runtime.MarshalError", "Unable to marshal response"),
        ("def other(e, c): ...\n", "Runtime.HandlerNotFound", "Handler 'handle' missing on module 'f'"),
        ("import nowhere\n", "Runtime.ImportModuleError", "Unable to import module 'f'"),
        ("def handle(:\n", "Runtime.UserCodeSyntaxError", "Syntax error in module 'f'"),
        ("raise KeyError('at import')\n", "KeyError", "at import"),
        ("import os\ndef handle(e, c):\n    os._exit(3)\n", "Runtime.ExitError", "Runtime exited"),
        ("import sys\ndef handle(e, c):\n    sys.exit(1)\n", "Runtime.ExitError", "Runtime exited"),
        ("import sys\nsys.exit(1)\n", "Runtime.ExitError", "Runtime exited"),
        (
            "import ctypes\ndef handle(e, c):\n    ctypes.string_at(0)\n",
            "Runtime.ExitError",
            "Runtime exited",
        ),
        ("def handle(e, c):\n    return 'x' * 6_300_000\n", "Function.ResponseSizeTooLarge", "6291556 bytes"),
        ("def handle(e, c):\n    return handle(e, c)\n", "RecursionError", "maximum recursion depth"),
    ],
)
async def test_a_failure_has_its_error_document(
    driver: str, runtime: MakeRuntime, code: str, kind: str, message: str
) -> None:
    async with runtime(driver, code) as it:
        document = await it.error()
    assert document["errorType"] == kind
    assert message in document["errorMessage"]


async def test_an_exception_has_a_stack_trace_of_the_functions_own_frames(
    driver: str, runtime: MakeRuntime
) -> None:
    code = "def inner():\n    raise ValueError('deep')\n\ndef handle(e, c):\n    inner()\n"
    async with runtime(driver, code) as it:
        document = await it.error()
        log = it.log()
    assert len(document["stackTrace"]) == 2
    assert "f.py" in document["stackTrace"][0]
    assert "inner()" in document["stackTrace"][0]
    assert len(document["requestId"]) == 36
    assert "[ERROR] ValueError: deep" in log
    assert "\u00a0\u00a0File" in log


async def test_a_timeout_says_so_and_harms_no_further_invocation(driver: str, runtime: MakeRuntime) -> None:
    code = "import time\ndef handle(e, c):\n    time.sleep(60 if e else 0)\n    return 'ok'\n"
    async with runtime(driver, code, timeout_s=1.0) as it:
        document = await it.error(True)
        assert document["errorType"] == "Sandbox.Timedout"
        assert re.fullmatch(
            r"RequestId: [0-9a-f-]{36} Error: Task timed out after 1\.00 seconds", document["errorMessage"]
        )
        assert await it.answer(False) == "ok"
        assert "Status: timeout" in it.log()


async def test_a_loop_that_never_yields_is_timed_out(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, "def handle(e, c):\n    while True: pass\n", timeout_s=1.0) as it:
        assert (await it.error())["errorType"] == "Sandbox.Timedout"


async def test_globals_are_kept_while_an_environment_is_warm(driver: str, runtime: MakeRuntime) -> None:
    code = "count = 0\ndef handle(e, c):\n    global count\n    count += 1\n    return count\n"
    async with runtime(driver, code) as it:
        assert [await it.answer() for _ in range(3)] == [1, 2, 3]
        log = it.log()
    assert log.count("INIT_START") == 1
    assert log.count("Init Duration") == 1


async def test_invocations_at_once_have_environments_of_their_own(driver: str, runtime: MakeRuntime) -> None:
    code = "import time, uuid\nme = str(uuid.uuid4())\ndef handle(e, c):\n    time.sleep(.3)\n    return me\n"
    async with runtime(driver, code) as it:
        answers = await asyncio.gather(*(it.answer() for _ in range(4)))
        assert len(set(answers)) == 4
        assert it.pool.idle("f") == 4


async def test_random_numbers_differ_between_environments(driver: str, runtime: MakeRuntime) -> None:
    code = "import random, time\ndef handle(e, c):\n    time.sleep(.2)\n    return random.random()\n"
    async with runtime(driver, code) as it:
        answers = await asyncio.gather(*(it.answer() for _ in range(3)))
    assert len(set(answers)) == 3


async def test_an_idle_environment_is_retired(driver: str, runtime: MakeRuntime) -> None:
    clock = VirtualClock()
    async with runtime(driver, "def handle(e, c): ...\n", clock=clock, idle_s=60.0) as it:
        await it.answer()
        await clock.advance(30.0)
        assert it.pool.idle("f") == 1
        await clock.advance(60.0)
        assert it.pool.idle("f") == 0


async def test_an_event_above_six_megabytes_is_refused(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, "def handle(e, c): ...\n") as it:
        outcome = await it.invoke("x" * (MAX_PAYLOAD_BYTES + 1))
    assert outcome == TooLarge(MAX_PAYLOAD_BYTES + 3, MAX_PAYLOAD_BYTES)


async def test_an_event_of_almost_six_megabytes_is_taken(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, "def handle(e, c):\n    return len(e)\n", timeout_s=20.0) as it:
        assert await it.answer("x" * (MAX_PAYLOAD_BYTES - 2)) == MAX_PAYLOAD_BYTES - 2


async def test_reserved_concurrency_throttles_what_is_above_it(driver: str, runtime: MakeRuntime) -> None:
    code = "import time\ndef handle(e, c):\n    time.sleep(.5)\n"
    async with runtime(driver, code, reserved_concurrency=1) as it:
        outcomes = await asyncio.gather(it.invoke(), it.invoke())
    throttled = [o for o in outcomes if isinstance(o, Throttled)]
    assert [o.reason for o in throttled] == ["ReservedFunctionConcurrentInvocationLimitExceeded"]


async def test_a_log_has_the_platforms_lines_and_the_functions_own(driver: str, runtime: MakeRuntime) -> None:
    code = (
        "import logging, sys\nlogging.getLogger().setLevel('INFO')\n"
        "def handle(e, c):\n"
        "    print('printed')\n    sys.stderr.write('to stderr\\n')\n"
        "    logging.info('logged')\n    print('no newline', end='')\n"
    )
    async with runtime(driver, code) as it:
        await it.answer()
        lines = it.log().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [0-9a-f]{8} ", line) for line in lines)
    text = "\n".join(line.split(" ", 2)[2] for line in lines)
    request = r"[0-9a-f-]{36}"
    assert re.search(rf"^START RequestId: {request} Version: \$LATEST$", text, re.M)
    assert re.search(rf"^END RequestId: {request}$", text, re.M)
    assert re.search(
        rf"^REPORT RequestId: {request}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\t"
        r"Memory Size: 128 MB\tMax Memory Used: \d+ MB\tInit Duration: \d+\.\d\d ms\t$",
        text,
        re.M,
    )
    assert "printed" in text
    assert "no newline" in text
    assert "to stderr" in text
    assert re.search(rf"^\[INFO\]\t\d{{4}}-\d\d-\d\dT[\d:.]+Z\t{request}\tlogged$", text, re.M)


async def test_an_invocation_that_is_cut_off_leaves_no_environment(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, "import time\ndef handle(e, c):\n    time.sleep(e)\n", timeout_s=60.0) as it:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await it.invoke(30)
        assert it.pool.idle("f") == 0
        await it.answer(0)


async def test_the_declaring_package_can_be_imported_and_is_inert(driver: str, runtime: MakeRuntime) -> None:
    code = (
        "import sys\nfrom millstream import App, Sqs\napp = App('x')\n\n@app.function(timeout=3)\n"
        "def handle(e, c):\n"
        "    return sorted(m for m in ('pydantic', 'boto3', 'msgspec') if m in sys.modules)\n\n"
        "app.map(Sqs('orders'), to=handle)\n"
    )
    async with runtime(driver, code) as it:
        assert await it.answer() == []


async def test_an_environment_that_ends_without_work_costs_no_invocation(
    driver: str, runtime: MakeRuntime
) -> None:
    code = (
        "import os, threading\n"
        "def handle(e, c):\n    if e:\n        threading.Timer(.01, os._exit, [1]).start()\n    return 'ok'\n"
    )
    async with runtime(driver, code) as it:
        assert await it.answer(True) == "ok"
        ended = it.pool._fleets["f"].idle[0].environment
        async with asyncio.timeout(5.0):
            while ended.alive:
                await asyncio.sleep(0.01)
        assert [await it.answer(False) for _ in range(3)] == ["ok"] * 3


@pytest.mark.parametrize(
    ("result", "answer"),
    [("'\\ud800'", "\ud800"), ("'\\U0001f600'", "\U0001f600"), ("__import__('decimal').Decimal('1.5')", 1.5)],
)
async def test_a_result_is_always_valid_json(
    driver: str, runtime: MakeRuntime, result: str, answer: object
) -> None:
    async with runtime(driver, f"def handle(e, c):\n    return {result}\n") as it:
        assert await it.answer() == answer


async def test_an_exception_of_any_text_keeps_its_type(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, "def handle(e, c):\n    raise ValueError('\\ud800\\n')\n") as it:
        assert (await it.error())["errorType"] == "ValueError"


@pytest.mark.parametrize("spoil", ["sys.stdout.close()", "sys.stdout = None", "sys.stderr = object()"])
async def test_a_function_may_spoil_its_own_output(driver: str, runtime: MakeRuntime, spoil: str) -> None:
    code = f"import sys\ndef handle(e, c):\n    {spoil}\n    return 1 if e else 1 / 0\n"
    async with runtime(driver, code) as it:
        assert await it.answer(True) == 1
        assert (await it.error(False))["errorType"] == "ZeroDivisionError"


async def test_a_small_function_may_have_many_threads(driver: str, runtime: MakeRuntime) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\nimport time\n"
        "def handle(e, c):\n    with ThreadPoolExecutor(40) as pool:\n"
        "        return sum(pool.map(lambda n: time.sleep(.05) or n, range(40)))\n"
    )
    async with runtime(driver, code, memory_size_mb=128, timeout_s=10.0) as it:
        assert await it.answer() == sum(range(40))


async def test_an_environment_that_cannot_be_made_is_a_throttle(driver: str, runtime: MakeRuntime) -> None:
    code = "import time\ndef handle(e, c):\n    time.sleep(e)\n    return 'ok'\n"
    async with runtime(driver, code, timeout_s=10.0) as it:
        assert await it.answer(0) == "ok"
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        busy = asyncio.gather(it.invoke(1), return_exceptions=False)
        await asyncio.sleep(0)
        held: list[int] = []
        try:
            lowest = os.dup(0)
            held.append(lowest)
            for spare in range(8):  # each step of the making fails once
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, limits[1]))
                outcome = await it.invoke(0)
                assert isinstance(outcome, Throttled | Success), outcome
                if spare == 0:
                    assert isinstance(outcome, Throttled)
                    assert outcome.reason == "ServiceException"
                if isinstance(outcome, Success):
                    break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in held:
                os.close(descriptor)
        assert isinstance((await busy)[0], Success)
        assert await it.answer(0) == "ok"


async def test_a_cold_start_that_is_cut_off_confuses_no_other(driver: str, runtime: MakeRuntime) -> None:
    code = "import time\ndef handle(e, c):\n    time.sleep(.1)\n    return e\n"
    async with runtime(driver, code, timeout_s=10.0) as it:
        await it.answer(0)
        for wait_s in (0.0, 0.0005, 0.001, 0.002, 0.004):
            tasks = [asyncio.gather(it.answer(n)) for n in range(3)]
            await asyncio.sleep(wait_s)
            tasks[1].cancel()
            assert [(await tasks[n])[0] for n in (0, 2)] == [0, 2]
            assert await it.answer("after") == "after"


async def test_a_function_can_import_boto3(driver: str, runtime: MakeRuntime) -> None:
    code = "def handle(e, c):\n    import boto3\n    return boto3.__name__\n"
    async with runtime(driver, code, timeout_s=20.0) as it:
        assert await it.answer() == "boto3"


@pytest.mark.parametrize("name", ["bootstrap", "queue", "zygote", "json"])
async def test_a_handlers_module_may_have_the_name_of_one_that_is_loaded(
    driver: str, runtime: MakeRuntime, tmp_path: Path, name: str
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text("def handle(e, c):\n    return [__file__, e]\n")
    async with runtime(driver, "", handler=f"{name}.handle") as it:
        file, event = await it.answer({"a": 1})
    assert file.endswith((f"task/{name}.py", f"code/{name}.py"))
    assert event == {"a": 1}


async def test_a_package_that_brings_boto3_gets_its_own(
    driver: str, runtime: MakeRuntime, tmp_path: Path
) -> None:
    code = "import boto3\ndef handle(e, c):\n    return boto3.__file__, boto3.__name__\n"
    async with runtime(driver, code, timeout_s=10.0) as it:
        assert "/code/" not in (await it.answer())[0]
    own = tmp_path / "code" / "boto3"
    own.mkdir()
    (own / "__init__.py").write_text("", encoding="utf-8")
    async with runtime(driver, code, timeout_s=10.0) as it:
        file, _ = await it.answer()
    assert file.endswith("task/boto3/__init__.py")


async def test_a_functions_files_are_as_on_aws_whatever_the_daemons_own_are(
    driver: str, runtime: MakeRuntime
) -> None:
    async with runtime(driver, "import os\ndef handle(e, c):\n    return os.umask(0o22)\n") as it:
        before = os.umask(0o077)
        try:
            assert await it.answer() == 0o022
        finally:
            os.umask(before)
