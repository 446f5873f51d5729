"""Init phases of environments.

Source: AWS, "Understanding the Lambda execution environment lifecycle".
"""

from __future__ import annotations

import re

import pytest

from tests.contract.sandbox_kit import COUNTED
from tests.runtime.conftest import MakeRuntime

pytestmark = pytest.mark.broker


async def test_the_init_after_a_failure_counts_as_duration(driver: str, runtime: MakeRuntime) -> None:
    code = "import time\ntime.sleep(0.5)\n" + COUNTED
    async with runtime(driver, code, timeout_s=3.0) as it:
        await it.answer()
        await it.invoke("exit")
        await it.answer()
        reports = [line for line in it.log().splitlines() if "REPORT RequestId" in line]
    inits = ["Init Duration" in line for line in reports]
    durations = [float(re.findall(r"\tDuration: ([\d.]+) ms", line)[0]) for line in reports]
    assert inits == [True, False, False]
    assert durations[0] < 400 < 500 <= durations[2]


async def test_an_init_that_takes_too_long_is_run_again_within_the_invocation(
    driver: str, runtime: MakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.runtime.environment.INIT_S", 1.0)
    code = "import time\ntime.sleep(1.5)\ndef handle(e, c):\n    return 'late'\n"
    async with runtime(driver, code, timeout_s=10.0) as it:
        assert await it.answer() == "late"
        log = it.log()
    assert "Phase: init\tStatus: timeout" in log
    (report,) = (line for line in log.splitlines() if "REPORT RequestId" in line)
    assert "Init Duration" not in report
    assert float(re.findall(r"\tDuration: ([\d.]+) ms", report)[0]) >= 1500


async def test_a_handler_that_cannot_be_loaded_is_tried_twice_and_told(
    driver: str, runtime: MakeRuntime
) -> None:
    async with runtime(driver, "raise ValueError('no')\n", timeout_s=5.0) as it:
        first, second = await it.error(), await it.error()
        log = it.log()
    assert first["errorType"] == second["errorType"] == "ValueError"
    assert first["errorMessage"] == "no"
    assert log.count("Phase: init\tStatus: error\tError Type: ValueError") == 1
    assert log.count("Phase: invoke\tStatus: error\tError Type: ValueError") == 2
    reports = [line for line in log.splitlines() if "REPORT RequestId" in line]
    assert all("Status: error\tError Type: ValueError" in line for line in reports)
