"""Tumbling windows: their bounds, what fits into them, their events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.mappings.answers import window_state
from millstream.mappings.windows import MAX_STATE_BYTES, TumblingWindows, Window, window_of
from tests.stream_fakes import stream_record


@given(st.floats(0, 4e9), st.integers(1, 900))
def test_windows_tile_time_from_the_epoch_on(at: float, size_s: int) -> None:
    window = window_of(at, size_s)
    assert window.start <= at < window.end
    assert (window.start % size_s, window.end - window.start) == (0, size_s)


def windows(size_s: int = 60) -> TumblingWindows:
    return TumblingWindows(size_s, "shardId-000000000006", "arn:stream")


def test_the_first_record_opens_its_window_and_later_ones_fit_until_its_end() -> None:
    them = windows()
    records = [stream_record(n, at=at) for n, at in enumerate((125.0, 170.0, 179.999, 180.0, 190.0))]
    assert them.fitting(records) == 3
    assert them.window == Window(120, 180)


def test_a_record_that_comes_late_belongs_to_the_open_window() -> None:
    them = windows()
    them.fitting([stream_record(1, at=125.0)])
    assert them.fitting([stream_record(2, at=60.0)]) == 1


def test_a_window_is_over_at_its_end_and_not_before() -> None:
    them = windows()
    assert not them.over(1e9)
    them.fitting([stream_record(1, at=125.0)])
    assert not them.over(179.9)
    assert them.over(180.0)


def test_the_event_has_the_documented_shape_and_order() -> None:
    them = windows(300)
    them.fitting([stream_record(1, at=1753894800.0)])
    them.state = b'{"sum":  1}'
    event = them.wrap(b'{"Records":[]}', final=True)
    assert json.loads(event) == {
        "Records": [],
        "window": {"start": "2025-07-30T17:00:00Z", "end": "2025-07-30T17:05:00Z"},
        "state": {"sum": 1},
        "shardId": "shardId-000000000006",
        "eventSourceARN": "arn:stream",
        "isFinalInvokeForWindow": True,
        "isWindowTerminatedEarly": False,
    }
    assert list(json.loads(event)) == [
        "Records",
        "window",
        "state",
        "shardId",
        "eventSourceARN",
        "isFinalInvokeForWindow",
        "isWindowTerminatedEarly",
    ]


def test_a_state_over_1_mb_ends_the_window_early() -> None:
    them = windows()
    them.fitting([stream_record(1, at=125.0)])
    them.state = b'"' + b"x" * (MAX_STATE_BYTES - 2) + b'"'
    before = them.overflowed
    them.state += b" "
    assert (before, them.overflowed) == (False, True)
    assert json.loads(them.wrap(b'{"Records":[]}', final=True))["isWindowTerminatedEarly"] is True


def test_the_next_window_starts_with_an_empty_state() -> None:
    them = windows()
    them.fitting([stream_record(1, at=125.0)])
    them.state = b'{"n":1}'
    them.close()
    assert (them.window, them.state) == (None, b"{}")


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        (b'{"state": {"a": 1}, "batchItemFailures": []}', b'{"a": 1}'),
        (b'{"state": {}}', b"{}"),
        (b'{"state": null}', None),
        (b'{"state": 3}', None),
        (b"{}", None),
        (b"null", None),
        (b"[]", None),
        (b"\xff", None),
        pytest.param(b"[" * 100_000, None, id="deep"),
        (b"", None),
    ],
)
def test_a_state_is_a_json_object(payload: bytes, state: bytes | None) -> None:
    assert window_state(payload) == state
