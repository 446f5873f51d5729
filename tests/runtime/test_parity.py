"""Our Python bootstrap and awslambdaric with the same handlers: callers and logs see the same of both."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from millstream.contract.functions import FunctionFailed, LoggingConfig, Outcome, Success
from tests.runtime.conftest import MakeRuntime
from tests.runtime.parity import HANDLERS, KEPT, LOGGING
from tests.runtime.test_runtime_api import of_ric

pytestmark = pytest.mark.broker

MASKS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "SECOND"),
    (re.compile(r"0x[0-9a-f]{6,}"), "ADDRESS"),
    (
        re.compile(r"line repeated \d+ more"),
        "line repeated N more",
    ),  # less what the runtime itself has called
)
FRESH = {"timeout_s": 10.0, "environment": {"PYTHONHASHSEED": "7"}}
"""A setting that only an interpreter of the function's own heeds."""

ADVICE = "LAMBDA_WARNING: Unhandled exception."
"""Of awslambdaric when a handler cannot be loaded: to look at AWS's runtime updates. There are none here."""

PLATFORM = re.compile(r"(INIT_START|INIT_REPORT|START|END|REPORT|LOGS_DROPPED) |.*\"type\":\"platform\.")


@dataclass(frozen=True)
class Seen:
    """What came of one invocation, without what differs from run to run."""

    kind: str
    payload: bytes
    printed: list[str]


def masked(text: str) -> str:
    for pattern, name in MASKS:
        text = pattern.sub(name, text)
    return text


def seen(outcome: Outcome, log: str) -> Seen:
    lines = [line.split(" ", 2)[2] for line in log.split("\n") if line.count(" ") >= 2]
    printed = [masked(line) for line in lines if not PLATFORM.match(line) and ADVICE not in line]
    assert isinstance(outcome, Success | FunctionFailed), outcome
    payload = masked(outcome.payload.decode("utf-8", "surrogateescape"))
    return Seen(type(outcome).__name__, payload.encode("utf-8", "surrogateescape"), printed)


@pytest.mark.parametrize("name", HANDLERS)
async def test_nobody_can_tell_which_of_them_ran_a_handler(runtime: MakeRuntime, name: str) -> None:
    code, event = HANDLERS[name]
    found = []
    for spec in ({"timeout_s": 10.0}, FRESH, of_ric()):
        async with runtime("bwrap", code, memory_size_mb=512, **spec) as it:
            outcome = await it.invoke(event)
            if name in KEPT:  # what a runtime says after its answer is there before the next one
                await it.invoke(event)
            log = it.log()
        it.log_file.unlink()
        found.append(seen(outcome, log))
    ours, fresh, theirs = found
    if name in KEPT:
        assert ours != theirs, f"the difference is gone: {KEPT[name]}"
    else:
        assert ours == theirs
        assert fresh == theirs


@pytest.mark.parametrize("name", LOGGING)
async def test_nobody_can_tell_from_json_logs_either(runtime: MakeRuntime, name: str) -> None:
    found = []
    for spec in ({"timeout_s": 10.0}, of_ric()):
        logging = LoggingConfig("JSON", "DEBUG")
        async with runtime("bwrap", LOGGING[name], memory_size_mb=512, logging=logging, **spec) as it:
            outcome = await it.invoke()
            log = it.log()
        it.log_file.unlink()
        found.append(seen(outcome, log))
    ours, theirs = found
    assert ours == theirs
    assert any(line.startswith("{") for line in ours.printed)


@pytest.mark.parametrize(
    "event", [b"not json", b"[" * 100_000 + b"]" * 100_000], ids=["no JSON", "nested too deeply"]
)
async def test_an_event_that_python_cannot_read_fails_alike(runtime: MakeRuntime, event: bytes) -> None:
    found = []
    for spec in ({"timeout_s": 10.0}, of_ric()):
        async with runtime("bwrap", "def handle(event, context):\n    return 1\n", **spec) as it:
            outcome = await it.pool.invoke("f", event)
            assert await it.answer() == 1
            log = it.log()
        it.log_file.unlink()
        assert isinstance(outcome, FunctionFailed)
        found.append((outcome.error_type, outcome.message[:25], log.count("INIT_START")))
    ours, theirs = found
    assert ours == theirs
