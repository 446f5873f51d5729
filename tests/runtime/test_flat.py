"""Descriptors and memory of the daemon stay as they are, whatever number of environments it has had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from millstream.contract.functions import FunctionFailed, FunctionSpec, Success
from millstream.contract.registry import load_plugin
from millstream.runtime.logs import FunctionLogs
from tests.runtime.conftest import MakeRuntime

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts by /proc"),
]

CODE = (
    "import os\ndef handle(event, context):\n    os._exit(1) if event == 'exit' else None\n    return event\n"
)
WARM_UP, ROUNDS = 10, 40
GROWTH_KB = 4096
AHEAD = 1
"""Descriptors of an environment that is made ahead, which may or may not be there."""

ID = "00000000-0000-0000-0000-000000000000"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_kb() -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))


async def test_environments_leave_nothing_behind(driver: str, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "f.py").write_text(CODE, encoding="utf-8")
    arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
    function = FunctionSpec("f", arn, "f.handle", code, timeout_s=10.0, network=("localhost:9",))
    log = FunctionLogs(tmp_path / "logs").of("f")
    sandbox = load_plugin("sandboxes", driver)(tmp_path / "sandboxes")
    await sandbox.start()
    before = (0, 0)
    for number in range(WARM_UP + ROUNDS):
        if number == WARM_UP:
            before = (descriptors(), resident_kb())
        environment = await sandbox.create(function, log)
        assert isinstance(await environment.invoke(b"1", ID), Success)
        assert isinstance(await environment.invoke(b'"exit"', ID), FunctionFailed)
        assert isinstance(await environment.invoke(b"1", ID), Success)
        await environment.aclose()
    assert abs(descriptors() - before[0]) <= AHEAD
    assert resident_kb() - before[1] < GROWTH_KB
    await sandbox.aclose()


async def test_invocations_leave_nothing_behind(driver: str, runtime: MakeRuntime) -> None:
    async with runtime(driver, CODE, concurrency=100_000, timeout_s=10.0) as it:
        for number in range(2000):
            assert await it.answer(number) == number
        before = (descriptors(), resident_kb())
        for number in range(4000):
            assert await it.answer(number) == number
        assert descriptors() == before[0]
        assert resident_kb() - before[1] < GROWTH_KB
