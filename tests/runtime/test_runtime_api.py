"""A program that speaks the Runtime API: awslambdaric as it is."""

from __future__ import annotations

import site
import sys
from pathlib import Path

import pytest

from millstream.contract.functions import MAX_RESPONSE_BYTES
from tests.runtime.conftest import MakeRuntime

pytestmark = pytest.mark.broker

RIC = """
import os, sys
def handle(event, context):
    if event == "raise":
        raise ValueError("no")
    if isinstance(event, int):
        return "x" * event
    return {"event": event, "id": context.aws_request_id, "left": context.get_remaining_time_in_millis(),
            "arn": context.invoked_function_arn, "modules": "awslambdaric" in sys.modules}
"""


def of_ric() -> dict[str, object]:
    """awslambdaric from this interpreter's packages, as a layer would bring it."""
    prefix = None if sys.base_prefix.startswith("/usr") else Path(sys.base_prefix)
    place = "/var/lang" if prefix else sys.base_prefix
    python = f"{place}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "command": (python, "-m", "awslambdaric", "f.handle"),
        "variables": {"PYTHONPATH": "/opt", "LD_LIBRARY_PATH": f"{place}/lib"},
        "opt": Path(site.getsitepackages()[0]),
        "interpreter": prefix,
        "timeout_s": 10.0,
    }


async def test_awslambdaric_runs_as_it_is(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, RIC, **of_ric()) as it:
        seen = await it.answer({"ä": [1]})
        assert seen["event"] == {"ä": [1]}
        assert len(seen["id"]) == 36
        assert 9000 < seen["left"] <= 10_000
        assert seen["arn"].endswith(":function:f")
        assert seen["modules"]
        error = await it.error("raise")
        assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no")
        assert len(await it.answer(MAX_RESPONSE_BYTES - 2)) == MAX_RESPONSE_BYTES - 2
        large = await it.error(MAX_RESPONSE_BYTES)
        assert large["errorType"] == "Function.ResponseSizeTooLarge"
        assert (await it.answer("again"))["event"] == "again"
