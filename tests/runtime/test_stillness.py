"""Frozen environments are looked after: seldom while they are still, and to their end if they are not."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable

import pytest

from millstream.runtime.sandboxes import bwrap
from millstream.runtime.zygote.stillness import ENOUGH, FIRST_LOOK_S, LONGEST_S, Stillness
from tests.runtime.conftest import MakeRuntime, runtime
from tests.security.drivers import driver
from tests.security.restless import TIMER

__all__ = ["driver", "runtime"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


async def wait_for(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not holds():
            await asyncio.sleep(0.02)


def frozen() -> Stillness:
    made = Stillness()
    made.begin()
    return made


def test_nothing_is_looked_for_while_nothing_is_frozen(clock: list[float]) -> None:
    it = Stillness()
    assert (it.wait_ms(), it.due) == (None, False)
    it.begin()
    it.end()
    assert (it.wait_ms(), it.due) == (None, False)


def test_looks_become_rare_while_all_is_still(clock: list[float]) -> None:
    it, looked_at = frozen(), []
    while clock[0] < 300.0:
        clock[0] += (it.wait_ms() or 0) / 1000
        assert it.due
        assert it.judge("TTZ", 7)
        looked_at.append(clock[0])
    pauses = [later - before for before, later in itertools.pairwise(looked_at)]
    assert [round(pause, 2) for pause in pauses] == sorted(round(pause, 2) for pause in pauses)
    assert looked_at[0] == pytest.approx(100.0 + FIRST_LOOK_S, abs=0.01)
    assert pauses[-1] == pytest.approx(LONGEST_S, abs=0.01)


@pytest.mark.parametrize(
    ("states", "uses"), [("TS", 0), ("TR", 1), ("TZR", 1)], ids=["sleeps", "runs", "a thread runs"]
)
def test_what_moves_again_and_again_is_ended(clock: list[float], states: str, uses: int) -> None:
    it = frozen()
    assert it.judge(states, 0)
    verdicts = [it.judge(states, number * uses) for number in range(1, ENOUGH + 1)]
    assert verdicts[ENOUGH - 3]
    assert not verdicts[-1]
    assert it.wait_ms() == pytest.approx(FIRST_LOOK_S * 1000, abs=2)


@pytest.mark.parametrize("states", ["TR", "TD", ""], ids=["no processor yet", "child of vfork", "none left"])
def test_what_could_not_stop_yet_or_waits_for_the_kernel_is_left_alone(
    clock: list[float], states: str
) -> None:
    it = frozen()
    assert all(it.judge(states, 5) for _ in range(10 * ENOUGH))


@pytest.fixture
def without_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwrap, "find_groups", lambda **_: None)


sandboxes = pytest.mark.parametrize("driver", ["bwrap", "docker"], indirect=True)


@pytest.mark.broker
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes need Linux")
@pytest.mark.usefixtures("without_cgroups")
@sandboxes
async def test_an_environment_that_wakes_itself_is_ended_and_that_is_said(
    runtime: MakeRuntime, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with runtime(driver, TIMER, timeout_s=10.0) as it:
        await it.answer("evade")
        await wait_for(lambda: it.pool.idle("f") == 0)
        assert "environment ended, it did not stay frozen" in caplog.text
        assert (await it.answer())[1] == 1


@pytest.mark.broker
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes need Linux")
@pytest.mark.usefixtures("without_cgroups")
@sandboxes
async def test_one_whose_threads_and_children_work_on_stays_and_goes_on_when_it_is_thawed(
    runtime: MakeRuntime, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with runtime(driver, TIMER, timeout_s=10.0) as it:
        await it.answer("work")
        await wait_for(lambda: it.pool.state()[0].frozen == 1)
        await asyncio.sleep(1.2 * ENOUGH * FIRST_LOOK_S)  # one that moved would have been ended
        assert it.pool.state()[0].frozen == 1
        assert (await it.answer())[1] == 2
        assert "did not stay frozen" not in caplog.text
