"""How concurrency grows with the backlog and shrinks with failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.mappings.scaling import CEILING, START, BacklogScaler


def test_a_queue_starts_with_five_batches_at_once() -> None:
    assert BacklogScaler(None, now=0.0).concurrency == START == 5


def test_a_minute_of_backlog_adds_three_hundred() -> None:
    scaler = BacklogScaler(None, now=0.0)
    for second in range(1, 61):
        scaler.polled(10, 10)
        scaler.looked(saturated=True, now=float(second))
    assert scaler.concurrency == 305


def test_a_backlog_without_full_use_adds_nothing() -> None:
    scaler = BacklogScaler(None, now=0.0)
    scaler.polled(10, 10)
    scaler.looked(saturated=False, now=10.0)
    assert scaler.concurrency == START


def test_time_alone_makes_it_grow_while_functions_of_any_duration_take_every_permit() -> None:
    scaler = BacklogScaler(None, now=0.0)
    scaler.polled(10, 10)
    for second in range(1, 61):
        scaler.looked(saturated=True, now=float(second))
    assert scaler.concurrency == 305


def test_a_poll_that_finds_the_end_of_the_backlog_stops_the_growth() -> None:
    scaler = BacklogScaler(None, now=0.0)
    scaler.polled(10, 9)
    scaler.looked(saturated=True, now=60.0)
    assert scaler.concurrency == START


def test_an_idle_queue_goes_back_to_five_by_steps_and_has_one_poll_at_once() -> None:
    scaler = BacklogScaler(None, now=0.0)
    for second in range(1, 61):
        scaler.polled(10, 10)
        scaler.looked(saturated=True, now=float(second))
    for _ in range(2):
        scaler.polled(10, 0)
    scaler.looked(saturated=False, now=70.0)
    assert (scaler.concurrency, scaler.pollers) == (255, 1)
    for second in range(71, 131):
        scaler.looked(saturated=False, now=float(second))
    assert scaler.concurrency == START


def test_a_record_ends_idleness() -> None:
    scaler = BacklogScaler(None, now=0.0)
    for _ in range(2):
        scaler.polled(10, 0)
    scaler.polled(10, 1)
    assert scaler.pollers > 1


def test_failures_halve_and_successes_restore() -> None:
    scaler = BacklogScaler(None, now=0.0)
    for _ in range(10):
        scaler.failed()
    assert scaler.concurrency == 1
    for _ in range(10):
        scaler.succeeded()
    assert scaler.concurrency == START


@given(
    st.one_of(st.none(), st.integers(2, 1000)),
    st.lists(st.tuples(st.sampled_from(["full", "empty", "failed", "succeeded"]), st.floats(0, 100))),
)
def test_concurrency_stays_between_one_and_its_maximum(
    maximum: int | None, events: list[tuple[str, float]]
) -> None:
    scaler, now = BacklogScaler(maximum, now=0.0), 0.0
    for event, later in events:
        now += later
        if event == "full":
            scaler.polled(10, 10)
            scaler.looked(saturated=True, now=now)
        elif event == "empty":
            scaler.polled(10, 0)
            scaler.looked(saturated=False, now=now)
        elif event == "failed":
            scaler.failed()
        else:
            scaler.succeeded()
        assert 1 <= scaler.concurrency <= (maximum or CEILING)
        assert 1 <= scaler.pollers <= scaler.concurrency
        if scaler.at_rest:
            before = scaler.concurrency
            scaler.looked(saturated=False, now=now + 1.0)
            assert scaler.concurrency == before


def test_a_scaler_is_at_rest_once_its_queue_is_idle_and_it_has_come_back() -> None:
    scaler = BacklogScaler(None, now=0.0)
    rested = [scaler.at_rest]

    def poll_twice(got: int) -> None:
        for _ in range(2):
            scaler.polled(10, got)
        rested.append(scaler.at_rest)

    poll_twice(0)
    poll_twice(10)
    scaler.looked(saturated=True, now=1.0)
    poll_twice(0)
    scaler.looked(saturated=False, now=2.0)
    rested.append(scaler.at_rest)
    assert rested == [False, True, False, False, True]
