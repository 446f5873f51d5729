"""Times in documents."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.times import iso_ms, iso_s


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1764088532.123, "2025-11-25T16:35:32.123Z"),
        (1764088532.9996, "2025-11-25T16:35:32.999Z"),
        (-1.0, "1969-12-31T23:59:59.000Z"),
        (1.7e12, "9999-12-31T23:59:59.999Z"),
        (math.inf, "9999-12-31T23:59:59.999Z"),
        (-math.inf, "0001-01-01T00:00:00.000Z"),
        (math.nan, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_is_written_whatever_it_is(at: float, text: str) -> None:
    assert iso_ms(at) == text
    assert iso_s(at) == text[:-5] + "Z"


@given(st.floats())
def test_no_time_raises_and_each_can_be_read_again(at: float) -> None:
    for text in (iso_ms(at), iso_s(at)):
        assert datetime.fromisoformat(text).tzinfo is UTC
