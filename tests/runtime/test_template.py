"""What the bwrap driver makes ahead: the first process of a function's next environment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from millstream.contract.functions import FunctionSpec, Success
from millstream.runtime.environment import Environment
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.sandboxes.bwrap import BwrapSandbox

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bwrap driver needs Linux"),
]

CODE = "import time\nat = time.time()\ndef handle(event, context):\n    return at\n"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:f"
ID = "00000000-0000-0000-0000-000000000000"


class Made:
    """Environments of one function, and the processes that the driver has."""

    def __init__(self, folder: Path) -> None:
        code = folder / "code"
        code.mkdir()
        (code / "f.py").write_text(CODE, encoding="utf-8")
        self.sandbox = BwrapSandbox(folder / "sandboxes")
        self._log = FunctionLogs(folder / "logs").of("f")
        self._function = FunctionSpec("f", ARN, "f.handle", code, timeout_s=10.0)

    async def environment(self) -> Environment:
        environment = await self.sandbox.create(self._function, self._log)
        assert isinstance(await environment.invoke(b"1", ID), Success)
        return environment

    async def until_ahead(self, busy: int) -> int:
        """The process that is made ahead, where `busy` others are those of environments."""
        async with asyncio.timeout(10.0):
            while len(forked := _forked(os.getpid())) != 2 * busy + 1 or not _stands(max(forked)):
                await asyncio.sleep(0.01)
        return max(forked)


def _forked(pid: int) -> list[int]:
    """Processes that zygotes have forked, below `pid`."""
    found: list[int] = []
    for child in _children(pid):
        if _zygote(child) and _zygote(pid):
            found.append(child)
        found += _forked(child)
    return found


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()


def _zygote(pid: int) -> bool:
    """True of a zygote and of what it forks; bwrap, which it is an argument of, is none."""
    try:
        program, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return b"python" in program and any(b"_millstream.zygote" in text for text in arguments)


def _there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _stands(pid: int) -> bool:
    """True once its isolation is complete: the system call filter comes last."""
    return "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text(encoding="ascii")


def _children(pid: int) -> list[int]:
    try:
        tasks = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
        return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]
    except FileNotFoundError:  # it ended
        return []


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


async def test_the_next_environment_is_what_was_made_ahead(made: Made) -> None:
    await made.sandbox.start()
    first = await made.environment()
    ahead = await made.until_ahead(1)
    second = await made.environment()
    assert ahead in _forked(os.getpid())
    assert await made.until_ahead(2) != ahead
    await first.aclose()
    await second.aclose()
    await made.sandbox.aclose()
    assert _forked(os.getpid()) == []


async def test_one_that_was_killed_is_not_used(made: Made) -> None:
    await made.sandbox.start()
    first = await made.environment()
    ahead = await made.until_ahead(1)
    os.kill(ahead, signal.SIGKILL)
    async with asyncio.timeout(10.0):
        while _there(ahead):
            await asyncio.sleep(0.01)
    second = await made.environment()
    await first.aclose()
    await second.aclose()
    await made.sandbox.aclose()


async def test_a_functions_processes_have_its_name_on_the_host(tmp_path: Path) -> None:
    made = Made(tmp_path)
    await made.sandbox.start()
    try:
        environment = await made.environment()
        names = [_name(pid) for pid in _forked(os.getpid())]
        assert len(names) >= 2  # its supervisor and its runtime
        assert {*names} == {"f"}
        await environment.aclose()
    finally:
        await made.sandbox.aclose()
