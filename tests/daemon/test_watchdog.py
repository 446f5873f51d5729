"""A loop that stands still is told of, with the place where it stood."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from millstream.daemon import watchdog
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


class Waking(logging.Handler):
    """Ends what the loop waits for, as soon as there is a line."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.line = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.line.set()


async def test_a_loop_that_may_never_turn_again_is_told_of_while_it_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waking = Waking(logging.ERROR)
    watchdog.logger.addHandler(waking)
    try:
        with watched(longest_s=0.2, standing_s=0.6):
            assert waking.line.wait(30.0), "no line while the loop stands still"
            async with asyncio.timeout(10.0):
                while not caplog.records or caplog.records[-1].message != "event loop stood still":
                    await asyncio.sleep(0.01)
    finally:
        watchdog.logger.removeHandler(waking)
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.message for record in told] == ["event loop stands still, nothing is done meanwhile"]
    assert "waking.line.wait(30.0)" in told[0].__dict__["stack"]


async def test_a_loop_that_turns_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with watched(longest_s=1.0):
        await asyncio.sleep(0.5)
    assert not caplog.records


def a_hostile_regular_expression() -> None:
    time.sleep(0.8)
