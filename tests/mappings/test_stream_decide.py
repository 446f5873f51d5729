"""What becomes of a stream's batch: attempts, throttles, halves, partial failures, ages."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.functions import Outcome, Success, Throttled
from millstream.contract.records import Batch, Reason
from millstream.contract.streams import StreamPolicy
from millstream.mappings.stream_decide import (
    Attempt,
    GiveUp,
    Retry,
    Settle,
    Step,
    decide,
    delay_s,
    drop_expired,
)
from tests.fakes import FAILURE, SUCCESS, failures
from tests.stream_fakes import stream_record

THROTTLED = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", 0.0)


def batch(*numbers: int) -> Batch:
    return Batch(tuple(stream_record(n) for n in numbers))


def numbers(step: Step) -> list[int]:
    records = step.attempt.batch.records if isinstance(step, Retry) else step.records
    return [int(record.item_id) for record in records]


def tries(outcomes: list[Outcome], policy: StreamPolicy, of: Batch) -> GiveUp | Settle | Retry:
    """The last step of a batch that is one record, through several outcomes."""
    step: Step = Retry(Attempt(of), 0.0)
    for outcome in outcomes:
        assert isinstance(step, Retry)
        (step,) = decide(step.attempt, outcome, policy)
    return step


@pytest.mark.parametrize("retries", [0, 1, 2, 3, 10])
def test_a_batch_is_given_up_after_its_retries_and_the_count_is_one_more(retries: int) -> None:
    policy = StreamPolicy(max_retries=retries)
    last = tries([FAILURE] * (retries + 1), policy, batch(1))
    assert last == GiveUp(batch(1).records, Reason.RETRIES_EXHAUSTED, retries + 1, "request-1", "Unhandled")
    if retries:
        assert isinstance(tries([FAILURE] * retries, policy, batch(1)), Retry)


def test_without_a_limit_a_batch_is_tried_for_ever() -> None:
    assert isinstance(tries([FAILURE] * 5000, StreamPolicy(), batch(1)), Retry)


def test_a_throttle_never_counts() -> None:
    policy = StreamPolicy(max_retries=0)
    assert isinstance(tries([THROTTLED] * 100, policy, batch(1)), Retry)
    last = tries([*[THROTTLED] * 100, FAILURE], policy, batch(1))
    assert isinstance(last, GiveUp)
    assert last.invoke_count == 1


def test_waits_double_from_one_second_to_a_minute() -> None:
    assert [delay_s(n) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert delay_s(10_000) == 60


def test_a_throttle_waits_as_long_as_it_is_told_at_least() -> None:
    (step,) = decide(Attempt(batch(1)), Throttled("x", 7.5), StreamPolicy())
    assert isinstance(step, Retry)
    assert step.after_s == 7.5


def test_halves_follow_in_order_and_cost_no_attempt() -> None:
    policy = StreamPolicy(max_retries=0, bisect=True)
    first, second = decide(Attempt(batch(1, 2, 3, 4, 5), failures=0), FAILURE, policy)
    assert (numbers(first), numbers(second)) == ([1, 2], [3, 4, 5])
    assert isinstance(first, Retry)
    assert isinstance(second, Retry)
    assert (first.attempt.failures, second.attempt.failures) == (0, 0)
    assert (first.after_s, second.after_s) == (0.0, 0.0)


def test_one_record_is_not_halved() -> None:
    (step,) = decide(Attempt(batch(1)), FAILURE, StreamPolicy(max_retries=0, bisect=True))
    assert isinstance(step, GiveUp)


ITEMS = StreamPolicy(item_failures=True, max_retries=3)


@pytest.mark.parametrize(
    "reply", ['""', "[]", "null", "{}", '{"batchItemFailures":[]}', '{"batchItemFailures":null}']
)
def test_replies_that_name_nothing_are_full_success(reply: str) -> None:
    steps = decide(Attempt(batch(1, 2, 3)), Success(reply.encode(), "r"), ITEMS)
    assert steps == [Settle(batch(1, 2, 3).records)]


@pytest.mark.parametrize(
    "failure",
    [
        {"itemIdentifier": ""},
        {"itemIdentifier": None},
        {"itemIdentifier": 123},
        {"itemIdentifier": "99"},
        {"foo": 123},
        {"foo": None},
    ],
)
def test_a_name_that_is_none_of_the_batch_fails_all_of_it(failure: dict[str, object]) -> None:
    reply = msgspec.json.encode({"batchItemFailures": [failure]})
    (step,) = decide(Attempt(batch(1, 2, 3)), Success(reply, "r"), ITEMS)
    assert isinstance(step, Retry)
    assert numbers(step) == [1, 2, 3]
    assert step.attempt.failures == 1


@pytest.mark.parametrize("reply", ['""', '{"batchItemFailures":[{"itemIdentifier":"2"}]}', "nonsense"])
def test_without_the_option_every_reply_is_success(reply: str) -> None:
    steps = decide(Attempt(batch(1, 2, 3)), Success(reply.encode(), "r"), StreamPolicy(max_retries=0))
    assert steps == [Settle(batch(1, 2, 3).records)]


def test_all_is_tried_again_from_the_lowest_named_record_on() -> None:
    settled, again = decide(Attempt(batch(1, 2, 3, 4, 5), failures=2), failures(4, 3), ITEMS)
    assert (numbers(settled), numbers(again)) == ([1, 2], [3, 4, 5])
    assert isinstance(again, Retry)
    assert (again.attempt.failures, again.after_s) == (0, 0.0)


def test_naming_the_first_record_is_a_failed_attempt_of_the_same_batch() -> None:
    (step,) = decide(Attempt(batch(1, 2, 3), failures=1), failures(1), ITEMS)
    assert isinstance(step, Retry)
    assert (numbers(step), step.attempt.failures) == ([1, 2, 3], 2)


def test_a_verdict_has_no_function_error_and_an_exception_has() -> None:
    named = tries([failures(1)] * 4, ITEMS, batch(1))
    thrown = tries([FAILURE] * 4, ITEMS, batch(1))
    assert isinstance(named, GiveUp)
    assert isinstance(thrown, GiveUp)
    assert (named.function_error, thrown.function_error) == (None, "Unhandled")


def test_with_bisect_a_partial_failure_splits_at_the_named_record() -> None:
    policy = StreamPolicy(item_failures=True, bisect=True, max_retries=3)
    settled, again = decide(Attempt(batch(1, 2, 3, 4)), failures(4), policy)
    assert (numbers(settled), numbers(again)) == ([1, 2, 3], [4])


def test_with_bisect_an_exception_splits_in_half_even_if_failures_are_reported() -> None:
    policy = StreamPolicy(item_failures=True, bisect=True, max_retries=3)
    assert [numbers(step) for step in decide(Attempt(batch(1, 2)), FAILURE, policy)] == [[1], [2]]


def test_the_recorded_case_of_a_restarted_count() -> None:
    """Batch 3, retries 3, record 6 of 6 is bad: delivered five times, and the record says four."""
    todo, delivered, given_up = [Attempt(batch(1, 2, 3)), Attempt(batch(4, 5, 6))], [], []
    while todo:
        attempt = todo.pop(0)
        seen = numbers(Retry(attempt, 0.0))
        delivered += seen
        steps = decide(attempt, failures(6) if 6 in seen else SUCCESS, ITEMS)
        todo = [step.attempt for step in steps if isinstance(step, Retry)] + todo
        given_up += [step for step in steps if isinstance(step, GiveUp)]
    assert [delivered.count(n) for n in range(1, 7)] == [1, 1, 1, 1, 1, 5]
    (record,) = given_up
    assert (numbers(record), record.invoke_count, record.function_error) == ([6], 4, None)


@pytest.mark.parametrize("reply", [b"null", b"{}", b'{"batchItemFailures":[]}', b'{"state":null}', b"x"])
def test_in_a_tumbling_window_a_reply_without_a_state_is_a_failure(reply: bytes) -> None:
    (step,) = decide(Attempt(batch(1)), Success(reply, "r"), StreamPolicy(tumbling_window_s=60))
    assert isinstance(step, Retry)
    assert step.attempt.failures == 1


def test_in_a_tumbling_window_a_state_is_success() -> None:
    (step,) = decide(
        Attempt(batch(1)), Success(b'{"state": {"n": 1}}', "r"), StreamPolicy(tumbling_window_s=60)
    )
    assert isinstance(step, Settle)


AGED = StreamPolicy(max_age_s=60.0)


def aged(*arrivals: float, failed: int = 0) -> Attempt:
    records = tuple(stream_record(n, at=at) for n, at in enumerate(arrivals))
    return Attempt(Batch(records), failures=failed)


def test_the_old_head_of_a_batch_is_given_up_and_the_young_tail_is_kept() -> None:
    given_up, left = drop_expired(aged(900, 990, 991, 992), 1000.0, AGED)
    assert given_up is not None
    assert left is not None
    assert (numbers(given_up), given_up.reason) == ([0], Reason.TOO_OLD)
    assert [r.arrived_at for r in left.batch.records] == [990, 991, 992]


@pytest.mark.parametrize(("failed", "count"), [(0, 1), (1, 1), (8, 8)])
def test_an_age_counts_one_or_the_tries_that_there_were(failed: int, count: int) -> None:
    given_up, left = drop_expired(aged(900, failed=failed), 1000.0, AGED)
    assert left is None
    assert given_up is not None
    assert given_up.invoke_count == count


def test_without_an_age_limit_nothing_is_too_old() -> None:
    attempt = aged(0.0)
    assert drop_expired(attempt, 1e9, StreamPolicy()) == (None, attempt)


def test_a_record_of_exactly_the_age_is_young_enough() -> None:
    assert drop_expired(aged(940), 1000.0, AGED)[0] is None


OUTCOMES = st.one_of(
    st.just(FAILURE),
    st.just(SUCCESS),
    st.just(THROTTLED),
    st.sets(st.integers(0, 45)).map(lambda named: failures(*named)),
)
POLICIES = st.builds(
    StreamPolicy,
    item_failures=st.booleans(),
    max_retries=st.none() | st.integers(0, 4),
    bisect=st.booleans(),
    tumbling_window_s=st.sampled_from([0, 60]),
)


@given(st.integers(1, 40), st.integers(0, 6), OUTCOMES, POLICIES)
def test_steps_cover_a_batch_in_order(size: int, failed: int, outcome: Outcome, policy: StreamPolicy) -> None:
    steps = decide(Attempt(batch(*range(size)), failures=failed), outcome, policy)
    assert [n for step in steps for n in numbers(step)] == list(range(size))


@given(st.integers(1, 40), st.integers(0, 6), OUTCOMES, POLICIES)
def test_only_failures_count_and_by_one(
    size: int, failed: int, outcome: Outcome, policy: StreamPolicy
) -> None:
    for step in decide(Attempt(batch(*range(size)), failures=failed), outcome, policy):
        if isinstance(step, Retry):
            assert step.attempt.failures in (0, failed, failed + 1)
            assert not isinstance(outcome, Throttled) or step.attempt.failures == failed
