"""The variable of X-Ray's trace, as a handler and what it starts see it, invocation for invocation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.conftest import DRIVERS, MakeRuntime, driver, runtime

__all__ = ["DRIVERS", "driver", "runtime"]

SEEN = """
import os, subprocess
def handle(e, c):
    if e == "take away":
        del os.environ["_X_AMZN_TRACE_ID"]
    there = os.environ.get("_X_AMZN_TRACE_ID", "")
    started = subprocess.run(["printenv", "_X_AMZN_TRACE_ID"], capture_output=True, text=True).stdout.strip()
    return [there, started]
"""

GROWTH = """
import os, resource
from millstream.runtime.bootstrap.trace import Trace
trace = Trace()
def held_kb():
    with open("/proc/self/statm") as file:  # what a process had at most counts what it was forked from
        return int(file.read().split()[1]) * resource.getpagesize() // 1024
def header(number):
    return b"Root=1-%08x-%024x;Parent=%016x;Sampled=0" % (number, number, number)
trace.set(header(0))
before = held_kb()
for number in range(200_000):
    trace.set(header(number))
print(held_kb() - before, os.environ["_X_AMZN_TRACE_ID"] == header(199_999).decode())
"""


async def test_each_invocation_has_its_own_and_so_have_processes_that_it_starts(
    runtime: MakeRuntime, driver: str
) -> None:
    async with runtime(driver, SEEN, timeout_s=10.0) as it:
        seen = [await it.answer(event) for event in ("look", "take away", "look")]
    assert seen[1] == ["", ""]
    for there, started in (seen[0], seen[2]):
        assert there.startswith("Root=1-")
        assert there == started
    assert seen[0] != seen[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read in /proc")
def test_memory_does_not_grow_with_invocations() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True, check=True
    )
    growth, last = ran.stdout.split()
    assert int(growth) < 4096
    assert last == "True"


def test_a_header_that_is_too_long_is_cut() -> None:
    code = "import os\nfrom millstream.runtime.bootstrap.trace import *\nTrace().set(b'x' * 9999)\n"
    code += "os.execvpe('printenv', ['printenv', VARIABLE], dict(os.environ))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "x" * 255 + "\n"


def test_a_rehearsal_leaves_no_variable_behind() -> None:
    code = "import os, subprocess\nfrom millstream.runtime.bootstrap.bootstrap import rehearse\nrehearse()\n"
    code += "os.execvp('env', ['env'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "PATH=" in ran.stdout
    assert "_X_AMZN_TRACE_ID" not in ran.stdout
