"""Logs as JSON: our Python bootstrap's as awslambdaric's, and the platform's records by their levels.

Sources: AWS, "Configuring advanced logging controls for your Lambda function", "Using structured JSON logs
with Python", "Lambda Telemetry API Event schema reference".
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from millstream.contract.functions import LoggingConfig
from tests.runtime.conftest import MakeRuntime
from tests.runtime.test_runtime_api import of_ric

pytestmark = pytest.mark.broker

LOGGED = """
import datetime, logging
logger = logging.getLogger()
logger.info("at import")
def handle(event, context):
    print("printed")
    logger.debug("debug")
    logger.info("info %s", "ä")
    logger.warning({"a": 1})
    logger.warning({"%(a)s": 1}, {"a": 2})
    logger.log(35, "between", extra={"own": 1, "none": None, "odd": datetime.timedelta(1), "level": "no"})
    logging.getLogger("its.own").critical("two\\nlines", stack_info=True)
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("caught")
    if event == "raise":
        raise KeyError("ü")
    return event
"""
BROKEN = "import logging\nlogging.warning('early')\nraise ValueError('no')\n"


def records(log: str) -> list[Any]:
    """What of the log is JSON, without what differs from run to run; and the other lines as they are."""
    found = []
    for line in log.splitlines():
        text = line.split(" ", 2)[2]
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
        found.append(json.loads(text) if text.startswith("{") else text)
    return found


def of_function(log: str) -> list[Any]:
    return [each for each in records(log) if not (isinstance(each, dict) and "type" in each)]


def of_platform(log: str) -> list[dict[str, Any]]:
    return [each for each in records(log) if isinstance(each, dict) and "type" in each]


@pytest.mark.parametrize("level", ["TRACE", "INFO", "WARN", "FATAL"])
@pytest.mark.parametrize("event", ["answer", "raise"])
async def test_the_bootstrap_logs_as_awslambdaric_does(runtime: MakeRuntime, event: str, level: Any) -> None:
    spec = {"timeout_s": 10.0, "logging": LoggingConfig("JSON", level)}
    seen = []
    for others in ({}, of_ric()):
        async with runtime("process", LOGGED, **{**others, **spec}) as it:
            await it.invoke(event)
            seen.append(it.log())
        it.log_file.unlink()
    ours, theirs = map(of_function, seen)
    assert ours == theirs
    assert len(ours) > 2 or level == "FATAL"


async def test_a_handler_that_cannot_be_loaded_is_one_record(runtime: MakeRuntime) -> None:
    async with runtime("process", BROKEN, timeout_s=10.0, logging=LoggingConfig("JSON")) as it:
        await it.invoke()
        early, error, *_ = of_function(it.log())
    assert (early["message"], early["requestId"]) == ("early", "")
    assert {name: error[name] for name in ("timestamp", "level", "errorType", "errorMessage")} == {
        "timestamp": "TIME",
        "level": "ERROR",
        "errorType": "ValueError",
        "errorMessage": "no",
    }


@pytest.mark.parametrize(
    ("level", "kinds"),
    [
        ("DEBUG", ["initStart", "initRuntimeDone", "initReport", "start", "runtimeDone", "report"]),
        ("INFO", ["initStart", "start", "report"]),
        ("WARN", []),
    ],
)
async def test_the_platforms_records_are_filtered_by_level(
    driver: str, runtime: MakeRuntime, level: Any, kinds: list[str]
) -> None:
    code = "def handle(event, context):\n    print('there')\n    return event\n"
    logging = LoggingConfig("JSON", system_log_level=level)
    async with runtime(driver, code, logging=logging) as it:
        await it.answer("four")
        log = it.log()
    assert [each["type"] for each in of_platform(log)] == [f"platform.{kind}" for kind in kinds]


async def test_the_end_of_a_runtime_says_what_it_produced_and_when(driver: str, runtime: MakeRuntime) -> None:
    code = "def handle(event, context):\n    return event\n"
    async with runtime(driver, code, logging=LoggingConfig("JSON", system_log_level="DEBUG")) as it:
        await it.answer("four")
        (done,) = (each["record"] for each in of_platform(it.log()) if each["type"].endswith(".runtimeDone"))
    assert (done["requestId"], done["status"], done["metrics"]["producedBytes"]) == ("ID", "success", 6)
    assert [span["name"] for span in done["spans"]] == ["responseLatency", "responseDuration"]
    assert done["spans"][0]["durationMs"] == done["metrics"]["durationMs"] > 0


@pytest.mark.parametrize("spec", [{}, of_ric()], ids=["frames", "Runtime API"])
async def test_a_large_response_takes_its_time_to_come(
    driver: str, runtime: MakeRuntime, spec: dict[str, Any]
) -> None:
    code = "def handle(event, context):\n    return 'x' * 6_000_000\n"
    logging = LoggingConfig("JSON", system_log_level="DEBUG")
    async with runtime(
        driver, code, **{"timeout_s": 10.0, **spec}, memory_size_mb=512, logging=logging
    ) as it:
        await it.answer()
        (done,) = (each["record"] for each in of_platform(it.log()) if each["type"].endswith(".runtimeDone"))
    latency, duration = (span["durationMs"] for span in done["spans"])
    assert duration > 0 < latency
    assert latency + duration == pytest.approx(done["metrics"]["durationMs"], abs=0.02)
    assert done["metrics"]["producedBytes"] == 6_000_002


async def test_a_failure_is_a_warning(driver: str, runtime: MakeRuntime) -> None:
    code = "import os\ndef handle(event, context):\n    os._exit(1)\n"
    async with runtime(driver, code, logging=LoggingConfig("JSON", system_log_level="WARN")) as it:
        await it.error()
        done, report = of_platform(it.log())
    assert (done["type"], report["type"]) == ("platform.runtimeDone", "platform.report")
    assert done["record"]["status"] == report["record"]["status"] == "error"
    assert report["record"]["errorType"] == "Runtime.ExitError"
    assert "spans" not in done["record"]


async def test_lines_that_were_dropped_are_a_record(driver: str, runtime: MakeRuntime) -> None:
    code = "def handle(event, context):\n    for _ in range(100):\n        print('x' * 99999)\n"
    async with runtime(driver, code, timeout_s=20.0, logging=LoggingConfig("JSON")) as it:
        await it.answer()
        (dropped,) = (each for each in of_platform(it.log()) if each["type"] == "platform.logsDropped")
    assert dropped["record"]["droppedBytes"] > 1_000_000
