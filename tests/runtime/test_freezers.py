"""Environments that the kernel freezes, each by a cgroup of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.runtime.sandboxes.controllers import FREEZE
from millstream.runtime.sandboxes.freezers import Freezers, removed
from millstream.runtime.sandboxes.hierarchies import find_groups
from tests.runtime.conftest import MakeRuntime, Runtime, runtime
from tests.runtime.test_cgroups import host
from tests.security.restless import TIMER, woke_while_frozen

__all__ = ["runtime"]

COUNTS = """
import os, threading, time
count = [0]
def work():
    while True:
        count[0] += 1
        time.sleep(0.001)
threading.Thread(target=work, daemon=True).start()
def handle(e, c):
    if e == "die":
        os._exit(1)
    return [os.getpid(), count[0]]
"""


def test_a_group_goes_with_those_below_it(tmp_path: Path) -> None:
    (tmp_path / "f" / "1").mkdir(parents=True)
    (tmp_path / "f" / "2").mkdir()
    assert removed(tmp_path / "f")
    assert removed(tmp_path / "f")  # and when it is gone
    assert not (tmp_path / "f").exists()


def test_a_group_that_is_not_yet_empty_is_removed_when_the_next_is_made(tmp_path: Path) -> None:
    freezers = Freezers(tmp_path)
    first = freezers.make()
    (tmp_path / "1" / FREEZE).touch()  # as processes keep it
    first.close()
    assert (tmp_path / "1").exists()
    (tmp_path / "1" / FREEZE).unlink()
    freezers.make()
    assert {path.name for path in tmp_path.iterdir()} == {"2"}


def test_version_1_is_not_used_to_freeze(tmp_path: Path) -> None:
    _, proc = host(tmp_path, "cgroup", "rw,freezer", "4:freezer:/unit\n")
    assert find_groups(proc) is None


def test_the_folder_of_limits_is_that_of_freezing_in_version_2(tmp_path: Path) -> None:
    mount, proc = host(tmp_path, "cgroup2", "rw", "0::/unit/daemon\n")
    (mount / "unit" / "daemon" / "cgroup.subtree_control").mkdir()  # the kernel refuses where processes are
    ours = mount / "unit" / f"millstream-{os.getpid()}"
    for folder in (mount, mount / "unit", ours):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("cpu memory pids")
    groups = find_groups(proc)
    assert groups is not None
    assert groups.controllers == ["memory", "pids", "cpu", "freezer"]
    group = groups.make("f")
    assert len(group.entrances) == 1
    assert group.freezers is not None
    group.freezers.make()
    assert len([*ours.glob("f-*/1")]) == 1


def need_a_freezer() -> None:
    groups = find_groups() if sys.platform.startswith("linux") else None
    if groups is None or "freezer" not in groups.controllers:
        pytest.skip("this host lets us make no cgroup of version 2")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not holds():
            await asyncio.sleep(0.02)


async def frozen(it: Runtime) -> None:
    await until(lambda: it.pool.state()[0].frozen == 1)


@pytest.mark.broker
async def test_what_would_wake_itself_stays_frozen_and_is_not_ended(runtime: MakeRuntime) -> None:
    need_a_freezer()
    async with runtime("bwrap", TIMER, timeout_s=10.0) as it:
        pid, _, _ = await it.answer("evade")
        assert await woke_while_frozen(it) == 0
        assert (await it.answer())[0] == pid


@pytest.mark.broker
async def test_first_and_later_environments_freeze_and_go_on(runtime: MakeRuntime) -> None:
    need_a_freezer()
    async with runtime("bwrap", COUNTS, timeout_s=10.0) as it:
        for _ in range(2):  # of the second, the first process is made ahead
            _, before = await it.answer()
            await frozen(it)
            await asyncio.sleep(0.5)
            _, after = await it.answer()
            assert after - before < 400
            await frozen(it)
            await it.invoke("die")
            await it.answer()


@pytest.mark.broker
async def test_a_frozen_environment_can_be_ended_and_leaves_no_group(runtime: MakeRuntime) -> None:
    need_a_freezer()
    async with runtime("bwrap", COUNTS, idle_s=1.0) as it:
        await it.answer()
        await frozen(it)
        await until(lambda: it.pool.idle("f") == 0)
        await it.answer()
        assert our_groups() != []
    assert our_groups() == []


def our_groups() -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"**/millstream-{os.getpid()}")]
