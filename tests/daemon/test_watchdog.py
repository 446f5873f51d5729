"""A loop that stands still is told of, with the place where it stood."""

from __future__ import annotations

import asyncio
import time

import pytest

from millstream.daemon.watchdog import watched


async def test_a_loop_that_stands_still_is_told_of_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    with watched(longest_s=0.3):
        a_hostile_regular_expression()
        async with asyncio.timeout(10.0):
            while not caplog.records:
                await asyncio.sleep(0.01)
    (line,) = caplog.records
    assert line.message == "event loop stood still"
    assert line.__dict__["seconds"] >= 0.7
    assert "a_hostile_regular_expression" in line.__dict__["stack"]


async def test_a_loop_that_turns_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with watched(longest_s=1.0):
        await asyncio.sleep(0.5)
    assert not caplog.records


def a_hostile_regular_expression() -> None:
    time.sleep(0.8)
