"""Which messages are hidden again, and which receives are made again: pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.triggers.sqs_attempts import ANSWERED_AGAIN_S, Attempts
from millstream.triggers.sqs_visibility import LONGER, MANY, MOST_S, Visibility

LEASE_S = 30


def held(count: int) -> Visibility:
    visibility = Visibility(LEASE_S)
    visibility.received(map(str, range(count)), 0.0)
    return visibility


def test_what_comes_back_first_is_hidden_again_first() -> None:
    visibility = Visibility(LEASE_S)
    for at, one in ((5.0, "b"), (1.0, "a"), (9.0, "c")):
        visibility.received([one], at)
    assert visibility.due(["c", "b", "a"], 15.0) == ["a", "b", "c"]


def test_a_few_messages_are_hidden_for_one_timeout_and_many_for_longer() -> None:
    assert held(MANY - 1).extension_s("0", 15.0) == LEASE_S
    assert held(MANY).extension_s("0", 15.0) == LONGER * LEASE_S


def test_what_is_hidden_for_a_timeout_to_come_is_not_due() -> None:
    visibility = held(1)
    visibility.extended("0", 100.0)
    assert visibility.due(["0"], 100.0 - LEASE_S) == []
    assert visibility.due(["0"], 100.0 - LEASE_S + 0.1) == ["0"]


def test_no_message_is_hidden_beyond_the_longest_time_since_it_was_received() -> None:
    visibility = held(1)
    assert visibility.extension_s("0", MOST_S - 10.0) == 10
    assert visibility.extension_s("0", MOST_S + 10.0) == 0


def test_what_is_settled_is_hidden_no_more() -> None:
    visibility = held(3)
    visibility.extended("0", 90.0)
    assert visibility.settled(["0", "1", "unknown"], 15.0) == {"0"}  # for longer than a timeout from then on
    assert visibility.extension_s("0", 15.0) == 0
    visibility.extended("0", 200.0)
    assert visibility.settled(["0"], 15.0) == set()


def test_a_message_that_nobody_has_told_of_is_due_at_once() -> None:
    assert held(0).due(["stranger"], 5.0) == ["stranger"]


@given(st.integers(1, 3000), st.lists(st.floats(0.1, LEASE_S / 4), min_size=1, max_size=60))
def test_no_message_is_seen_by_others_while_it_is_looked_at_four_times_a_timeout(
    count: int, steps: list[float]
) -> None:
    visibility = held(count)
    until, now, extended_at = float(LEASE_S), 0.0, 0.0
    for step in steps:
        now += step
        assert now <= until
        if now - extended_at < LEASE_S / 2:  # the core asks for what is half through its timeout
            continue
        extended_at = now
        if visibility.due(["0"], now):
            until = now + visibility.extension_s("0", now)
            visibility.extended("0", until)


def test_an_answer_that_got_lost_is_asked_for_again_by_its_id() -> None:
    attempts = Attempts()
    first, second = attempts.begin(10, 0.0), attempts.begin(10, 0.0)
    assert first.id != second.id
    attempts.lost(first)
    assert attempts.begin(10, 1.0) == first
    assert attempts.begin(10, 1.0).id not in {first.id, second.id}


@pytest.mark.parametrize(("limit", "now"), [(9, 1.0), (10, ANSWERED_AGAIN_S)])
def test_it_is_not_where_it_might_bring_too_much_or_is_forgotten(limit: int, now: float) -> None:
    attempts = Attempts()
    lost = attempts.begin(10, 0.0)
    attempts.lost(lost)
    assert attempts.begin(limit, now).id != lost.id
