"""Every runtime client as its makers publish it, with the functions of examples/runtimes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.contract.functions import MAX_PAYLOAD_BYTES, FunctionFailed, FunctionSpec
from scripts.languages import PROGRAMS
from tests.runtime.languages import function, running

pytestmark = pytest.mark.broker

SMALLEST_MB = 128
"""The least memory that a function can have."""

UNICODE = {"ä": [1, None, True, "\U0001f600"], "n": 2.5, "nested": {"\u2028": '\\"\n'}}
LARGEST = {"text": "x" * (MAX_PAYLOAD_BYTES - 1024)}
"""An event that leaves room for what the answer has beside it."""

TIMES = 3  # in one environment, with the garbage of those before

ERRORS: dict[str, dict[str, str | list[str]]] = {
    "python": {
        "errorType": "ValueError",
        "stackTrace": [r'  File "/var/task/main\.py", line \d+, in handle\n    raise ValueError\(.*\n'],
    },
    "nodejs": {
        "errorType": "RangeError",
        "trace": ["RangeError: the event asks for it", r"    at .*\(file:///var/task/index\.mjs:\d+:\d+\)"],
    },
    "java": {
        "errorType": "java.lang.IllegalStateException",
        "stackTrace": [r"example\.Echo\.handleRequest\(Echo\.java:\d+\)"],
    },
    "go": {"errorType": "errorString"},
    "rust": {"errorType": "Asked"},
    "shell": {"errorType": "Shell.Failed"},
}
"""Documents of errors as each client writes them; of lists, patterns of the first items.

Source: AWS, "Using the Lambda runtime API for custom runtimes", and each client.
"""

Functions = Callable[[str], FunctionSpec]


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Functions:
    """`functions(language)`: its function, deployed once."""
    made: dict[str, FunctionSpec] = {}

    def of(language: str) -> FunctionSpec:
        if language not in made:
            made[language] = function(language, tmp_path_factory.mktemp(language))
        return made[language]

    return of


@pytest.fixture(params=PROGRAMS)
def language(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def spec(language: str, functions: Functions) -> FunctionSpec:
    return functions(language)


async def test_an_event_comes_back_with_what_the_client_knows_of_its_invocation(
    spec: FunctionSpec, tmp_path: Path
) -> None:
    async with running(spec, tmp_path, timeout_s=10.0) as it:
        seen = await it.answer(UNICODE)
        assert seen["event"] == UNICODE
        assert seen["function"] == "f"
        assert re.fullmatch(r"[0-9a-f-]{36}", seen["request_id"])
        assert 0 < seen["remaining_ms"] <= 10_000
        assert re.search(rf"echoing {seen['request_id']}$", it.log(), re.MULTILINE)


async def test_an_error_has_the_document_of_its_client(
    language: str, spec: FunctionSpec, tmp_path: Path
) -> None:
    async with running(spec, tmp_path, timeout_s=10.0) as it:
        document = await it.error({"fail": True})
        assert document["errorMessage"] == "the event asks for it"
        for name, wanted in ERRORS[language].items():
            if isinstance(wanted, str):
                assert document[name] == wanted
            else:
                assert len(document[name]) >= len(wanted)
                for found, pattern in zip(document[name], wanted, strict=False):
                    assert re.fullmatch(pattern, found), found
        assert (await it.answer({}))["event"] == {}


async def test_a_timeout_ends_the_client_and_the_next_invocation_works(
    spec: FunctionSpec, tmp_path: Path
) -> None:
    async with running(spec, tmp_path, timeout_s=2.0) as it:
        document = await it.error({"wait": 60})
        assert document["errorType"] == "Sandbox.Timedout"
        assert document["errorMessage"].endswith("Error: Task timed out after 2.00 seconds")
        assert (await it.answer({}))["event"] == {}


async def test_an_exit_is_told_and_the_next_invocation_works(spec: FunctionSpec, tmp_path: Path) -> None:
    async with running(spec, tmp_path, timeout_s=10.0) as it:
        gone = await it.invoke({"exit": 3})
        assert isinstance(gone, FunctionFailed)
        assert gone.error_type == "Runtime.ExitError"
        assert "Error: Runtime exited" in gone.message
        assert (await it.answer({}))["event"] == {}


async def test_the_smallest_memory_is_enough_for_the_largest_payload_each_way(
    spec: FunctionSpec, tmp_path: Path
) -> None:
    async with running(spec, tmp_path, memory_size_mb=SMALLEST_MB, timeout_s=10.0) as it:
        for _ in range(TIMES):
            assert (await it.answer(LARGEST))["event"] == LARGEST


async def test_the_process_driver_runs_it_too(spec: FunctionSpec, tmp_path: Path) -> None:
    async with running(spec, tmp_path, "process", timeout_s=10.0) as it:
        assert (await it.answer(UNICODE))["event"] == UNICODE


async def test_the_docker_driver_runs_it_too(
    spec: FunctionSpec, tmp_path: Path, docker_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine)
    async with running(spec, tmp_path, "docker", memory_size_mb=SMALLEST_MB, timeout_s=10.0) as it:
        assert (await it.answer(LARGEST))["event"] == LARGEST


@pytest.mark.parametrize("language", ["java"])
async def test_a_client_that_asks_to_be_restored_is_loaded_ahead(spec: FunctionSpec, tmp_path: Path) -> None:
    async with running(spec, tmp_path, snap_start=True, reserved_concurrency=1) as it:
        async with asyncio.timeout(60.0):
            while not it.pool.idle("f"):
                await asyncio.sleep(0.01)
        assert "INIT_REPORT" in it.log()
        for _ in range(2):
            assert (await it.answer({"a": 1}))["event"] == {"a": 1}
        assert it.log().count("RESTORE_REPORT Restore Duration") == 1
