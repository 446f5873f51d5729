"""A flood of what cannot be read leaves a line a minute in the log."""

from __future__ import annotations

import logging

import pytest

from millstream.amqp.sparing import MOST_REASONS, Sparing

logger = logging.getLogger(__name__)


def test_a_reason_is_said_once_a_minute_with_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    warn = Sparing(logger)
    for now in (0.0, 1.0, 59.9, 60.0, 61.0, 125.0):
        warn.warning("not read", "broken", now, queue="q")
    warn.warning("not read", "cut short", 125.0, queue="q")
    warn.warning("not taken", "broken", 125.0, queue="q")
    said = [(each.message, vars(each)["why"], vars(each)["left_out"]) for each in caplog.records]
    assert said == [
        ("not read", "broken", 0),
        ("not read", "broken", 2),
        ("not read", "broken", 1),
        ("not read", "cut short", 0),
        ("not taken", "broken", 0),
    ]
    assert {vars(each)["queue"] for each in caplog.records} == {"q"}


def test_a_clock_that_was_set_back_silences_nothing(caplog: pytest.LogCaptureFixture) -> None:
    warn = Sparing(logger)
    warn.warning("not read", "broken", 1000.0)
    warn.warning("not read", "broken", 10.0)
    assert len(caplog.records) == 2


def test_reasons_that_producers_make_up_take_no_more_memory(caplog: pytest.LogCaptureFixture) -> None:
    warn = Sparing(logger)
    for number in range(10 * MOST_REASONS):
        warn.warning("not read", f"a header of type {number}", 0.0)
    assert len(warn._said_at) <= MOST_REASONS
