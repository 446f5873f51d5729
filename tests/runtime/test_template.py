"""The bwrap driver makes the processes of the next environment ahead: its supervisor, its runtime."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.contract.functions import FunctionSpec, Success
from millstream.runtime.environment import Environment
from millstream.runtime.logs import FunctionLogs
from millstream.runtime.sandboxes.bwrap import BwrapSandbox
from millstream.runtime.sandboxes.freezers import Freezer

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

    async def until_ahead(self, busy: int) -> set[int]:
        """The processes that are made ahead, where those of `busy` environments are there, too."""
        async with asyncio.timeout(10.0):
            while len(forked := _forked(os.getpid())) != 2 * busy + 2:
                await asyncio.sleep(0.01)
        return {*forked[-2:]}


def _forked(pid: int) -> list[int]:
    """Processes that zygotes have forked, below `pid`; those that were started last are last."""
    found: list[tuple[int, int]] = []
    for child in _children(pid):
        if _zygote(child) and _zygote(pid):
            found.append((_started_at(child), child))
        found += [(_started_at(each), each) for each in _forked(child)]
    return [each for _, each in sorted(found)]


def _started_at(pid: int) -> int:
    """In ticks of the kernel."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


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
    assert ahead <= {*_forked(os.getpid())}
    assert not ahead & await made.until_ahead(2)
    await first.aclose()
    await second.aclose()
    await made.sandbox.aclose()
    assert _forked(os.getpid()) == []


@pytest.mark.parametrize("which", [min, max], ids=["supervisor", "runtime"])
async def test_one_that_was_killed_is_not_used(made: Made, which: Callable[[set[int]], int]) -> None:
    await made.sandbox.start()
    first = await made.environment()
    ahead = which(await made.until_ahead(1))  # in the order of their start, unless pids begin anew
    os.kill(ahead, signal.SIGKILL)
    async with asyncio.timeout(10.0):
        while _there(ahead):
            await asyncio.sleep(0.01)
    second = await made.environment()
    await first.aclose()
    await second.aclose()
    await made.sandbox.aclose()


async def test_what_is_forked_ahead_freezes_too_however_long_its_supervisor_takes_to_be_moved(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Freezer.take

    def late(freezer: Freezer, pid: int) -> None:
        time.sleep(0.5)  # as a kernel that waits for all processors
        take(freezer, pid)

    monkeypatch.setattr(Freezer, "take", late)
    await made.sandbox.start()
    if "frozen by the kernel" not in made.sandbox.limits():
        pytest.skip("this host lets us make no cgroup of version 2")
    first = await made.environment()
    await made.until_ahead(1)
    second = await made.environment()
    supervisors = [pid for pid in _forked(os.getpid()) if _children(pid)]
    groups = [{_group(pid) for pid in (each, *_children(each))} for each in supervisors]
    assert [len(found) for found in groups] == [1] * len(supervisors)
    assert len(set.union(*groups)) == len(supervisors) >= 2
    await first.aclose()
    await second.aclose()
    await made.sandbox.aclose()


def _group(pid: int) -> str:
    """Read its cgroup of version 2."""
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    return next(line for line in lines if line.startswith("0::"))


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
