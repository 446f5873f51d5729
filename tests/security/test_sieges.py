"""A function that takes what it can get of the host's kernel harms no other one, as SECURITY.md says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from millstream.daemon.event_loop import new_event_loop
from millstream.runtime.sandboxes import hierarchies, users
from millstream.runtime.sandboxes.subordinate import Subordinates, find_subordinates
from tests.security.drivers import driver
from tests.security.outcomes import BOUNDED, HOST, POSSIBLE, UNTRIED, WITH_CGROUP, WITH_IDS, column
from tests.security.sieges import SIEGES, Siege
from tests.security.test_deeds import need_a_cgroup
from tests.security.victim import pair

__all__ = ["driver"]

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the attempts are on Linux"),
]


OWN_USERS = "64100-64199"
"""The functions' here: those of other tests at the same time would share what the kernel counts by user."""


@pytest.mark.parametrize("siege", SIEGES, ids=lambda siege: siege.name)
def test_no_other_function_notices(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, siege: Siege
) -> None:
    monkeypatch.setenv(users.VARIABLE, OWN_USERS)
    declared = siege.outcomes[column(driver)]
    if declared in (UNTRIED, HOST):
        pytest.skip("it would harm this host, or is the host's own affair")
    if declared == WITH_CGROUP:
        need_a_cgroup()
        declared = BOUNDED
    if declared == WITH_IDS:
        declared = BOUNDED if isinstance(find_subordinates(), Subordinates) else POSSIBLE
    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # the daemon's own must go on, too
        unharmed = runner.run(besieged(driver, tmp_path, siege))
    assert (BOUNDED if unharmed else POSSIBLE) == declared


async def besieged(driver: str, folder: Path, siege: Siege) -> bool:
    async with pair(driver, folder, siege.code, siege.needs, **siege.spec) as it:
        beside = await it.during()
        await it.frozen()
        return beside.unharmed and await it.unharmed()


BOMB = """
import os, time
def handle(e, c):
    made = 0
    try:
        while made < 1000:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            made += 1
    except OSError:
        return made
"""


async def test_no_function_takes_the_processes_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hierarchies, "processes_of_all", lambda proc: 400)
    need_a_cgroup("pids")
    async with pair("bwrap", tmp_path, BOMB, memory_size_mb=512) as it:
        made = await it.attack()
        assert made is not None
        assert made < 200
        await it.frozen()
        assert await it.unharmed()


SPINNERS = """
import os, time
def handle(e, c):
    ends_at = time.monotonic() + 2
    for _ in range(40):
        if os.fork() == 0:
            os.setsid()  # else the kernel may group them: sched(7), "The autogroup feature"
            while time.monotonic() < ends_at:
                pass
            os._exit(0)
    for _ in range(40):
        os.wait()
"""

SPINS = """
ends_at, begun_at = time.monotonic() + 1, time.process_time()
while time.monotonic() < ends_at:
    pass
return time.process_time() - begun_at > 0.2
"""


async def test_many_processes_have_no_more_of_the_processors_than_one(tmp_path: Path) -> None:
    need_a_cgroup("cpu")
    async with pair("bwrap", tmp_path, SPINNERS, SPINS.strip(), memory_size_mb=128, rounds=1) as it:
        beside = await it.during()
        assert beside.unharmed, beside
