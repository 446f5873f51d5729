"""Waits between tries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.backoff import HEALTHY_S, Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff, now, waits = Backoff(1.0, 10.0, chance=lambda: 0.0), 1000.0, []
    for _ in range(6):
        waits.append(backoff.wait_s(now))
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_after_a_healthy_minute_waits_start_anew() -> None:
    backoff, now = Backoff(1.0, 300.0, chance=lambda: 0.0), 1000.0
    for _ in range(12):
        now += backoff.wait_s(now)
    assert backoff.wait_s(now + HEALTHY_S) == 1.0


def test_a_try_that_takes_long_to_fail_is_not_health() -> None:
    backoff, now = Backoff(1.0, 300.0, chance=lambda: 0.0), 1000.0
    for expected in (1.0, 2.0, 4.0):
        assert backoff.wait_s(now) == expected
        now += expected + HEALTHY_S - 1


@given(st.lists(st.floats(0, 59), max_size=30), st.floats(0, 1))
def test_a_wait_is_between_half_and_all_of_its_step(tries: list[float], luck: float) -> None:
    backoff, now = Backoff(0.5, 30.0, chance=lambda: luck), 0.0
    for number, took_s in enumerate(tries):
        step_s = min(0.5 * 2**number, 30.0)
        wait_s = backoff.wait_s(now)
        assert step_s / 2 <= wait_s <= step_s
        now += wait_s + took_s
