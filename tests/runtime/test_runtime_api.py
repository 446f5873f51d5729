"""Programs that speak the Runtime API, on every driver: awslambdaric as it is, and a shell script."""

from __future__ import annotations

import site
import sys
from pathlib import Path

import pytest

from millstream.contract.functions import MAX_RESPONSE_BYTES, FunctionFailed
from tests.runtime.conftest import MakeRuntime

pytestmark = pytest.mark.broker

SHELL = r"""#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  head=${TMPDIR:-/tmp}/head.$$
  event=$(curl -sS -D "$head" "$api/invocation/next")
  id=$(grep -i '^lambda-runtime-aws-request-id:' "$head" | tr -d '\r' | cut -d' ' -f2)
  case "$event" in
    '"fail"') curl -sS -X POST "$api/invocation/$id/error" \
        -H 'Lambda-Runtime-Function-Error-Type: Shell.Failed' \
        -d '{"errorMessage":"it did","errorType":"Shell.Failed"}' ;;
    '"exit"') exit 3 ;;
    '"text"') curl -sS -X POST "$api/invocation/$id/response" -d 'no json' ;;
    *) curl -sS -X POST "$api/invocation/$id/response" -d "{\"echo\":$event}" ;;
  esac >/dev/null
done
"""


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A package with a shell script as its bootstrap."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "bootstrap").write_text(SHELL, encoding="utf-8")
    (folder / "bootstrap").chmod(0o755)
    return folder


def of_shell() -> dict[str, object]:
    return {"command": ("/var/task/bootstrap",), "runtime": "provided.al2023", "timeout_s": 10.0}


@pytest.mark.usefixtures("shell")
async def test_a_shell_script_is_a_runtime(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, "", **of_shell()) as it:
        assert await it.answer({"a": 1}) == {"echo": {"a": 1}}
        assert await it.answer([2]) == {"echo": [2]}
        assert await it.error("fail") == {"errorMessage": "it did", "errorType": "Shell.Failed"}
        assert await it.answer("text") == "no json"
        gone = await it.invoke("exit")
        assert isinstance(gone, FunctionFailed)
        assert gone.error_type == "Runtime.ExitError"
        assert gone.message.endswith("Error: Runtime exited without providing a reason")
        assert await it.answer(1) == {"echo": 1}


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
