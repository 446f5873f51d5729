"""A flood of the same leaves a line a minute in the log."""

from __future__ import annotations

import logging

import pytest

from millstream.contract.seldom import EVERY_S, MOST_REASONS, Seldom

logger = logging.getLogger(__name__)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_due_at_first_and_then_once_a_minute_for_each_reason() -> None:
    clock = Clock()
    seldom = Seldom(clock)
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [True, False, True]
    clock.now += EVERY_S
    assert [seldom.due("a"), seldom.due("a")] == [True, False]


def test_a_warning_says_how_many_were_left_out_before_it(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    seldom = Seldom(clock)
    for after_s in (0.0, 1.0, 58.9, 0.1, 1.0, 64.0):
        clock.now += after_s
        seldom.warning(logger, "not read", "broken", queue="q")
    seldom.warning(logger, "not read", "cut short")
    seldom.warning(logger, "not taken", "broken")
    said = [(each.message, vars(each)["why"], vars(each)["left_out"]) for each in caplog.records]
    assert said == [
        ("not read", "broken", 0),
        ("not read", "broken", 2),
        ("not read", "broken", 1),
        ("not read", "cut short", 0),
        ("not taken", "broken", 0),
    ]
    assert vars(caplog.records[0])["queue"] == "q"


def test_reasons_that_producers_make_up_take_no_more_memory() -> None:
    seldom = Seldom()
    for number in range(10 * MOST_REASONS):
        assert seldom.due(f"a header of type {number}")
    assert len(seldom._said) <= MOST_REASONS
