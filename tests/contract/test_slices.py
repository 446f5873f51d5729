"""Long work on the loop lets others run, and has threads switch often while it lasts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest

from millstream.contract import slices as module
from millstream.contract.clock import SystemClock
from millstream.contract.slices import LONG_S, SLICE_S, SWITCH_S, Slices

USUAL_S = 0.005


class SteppingClock(SystemClock):
    """A clock by which each look at it takes a while."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._at_s = 0.0

    def monotonic(self) -> float:
        self._at_s += self._step_s
        return self._at_s


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Python's own interval, which a filter of an earlier test may have left shorter as its loop ended."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    monkeypatch.setattr(module, "_switches", module._Switches())
    yield sys.getswitchinterval()
    sys.setswitchinterval(before)


async def work(items: int, clock: SteppingClock) -> None:
    slices = Slices(clock)
    for _ in range(items):
        if slices.over:
            await slices.rest()


async def test_others_have_their_turn_after_each_slice() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as group:
        others = group.create_task(other())
        await work(40, SteppingClock(SLICE_S / 4))
        others.cancel()
    assert turns == pytest.approx(8, abs=3)  # a slice of four looks, and one that starts the next


async def test_threads_switch_often_while_work_is_long_and_as_usual_a_while_later(
    usual: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", 0.05)
    assert SWITCH_S < SLICE_S < usual
    await work(int(LONG_S / SLICE_S) // 2 - 1, SteppingClock(SLICE_S))  # two looks for each
    assert sys.getswitchinterval() == usual
    await work(100, SteppingClock(SLICE_S))
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S, abs=2e-6)
    async with asyncio.timeout(5.0):
        while sys.getswitchinterval() != usual:
            await asyncio.sleep(0.01)
